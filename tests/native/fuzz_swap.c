/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes what reads text about swap: /proc/swaps, and requests to swap/on, a line each. A request is only
 * parsed, never carried out. */
#include <errno.h>

#include "fuzz.h"
#include "zcached/block/swap.h"
#include "zcached/block/swaps.h"

static void try_swaps(const char *text)
{
    struct zc_swap_area areas[ZC_SWAP_AREAS_MAX];
    size_t count = zc_swaps_parse(text, areas);

    if (count > ZC_SWAP_AREAS_MAX)
        abort();
    for (size_t i = 0; i < count; i++) {
        const char *end = memchr(areas[i].path, '\0', sizeof(areas[i].path));
        if (!end || end == areas[i].path || strpbrk(areas[i].path, " \t\n"))
            abort();
    }
}

static void try_request(const char *line)
{
    const struct zc_node *on = &zc_swap_nodes[0].children[0];
    struct zc_text why = {0};
    int error = on->check(NULL, on, line, &why);

    if (error && (error != -EINVAL || !why.data))
        abort();
    if (!error && !strstr(line, "size="))
        abort();
    zc_text_free(&why);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);

    if (!text)
        abort();
    memcpy(text, data, size);
    text[size] = '\0';
    try_swaps(text);
    for (char *line = text, *next = line; next; line = next + 1) {
        next = strchr(line, '\n');
        if (next)
            *next = '\0';
        try_request(line);
    }
    free(text);
    return 0;
}
