/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the control plane's parser: input is lines, run against the tree of a store. Each answer must
 * be one whole OK or ERR answer. */
#include <errno.h>

#include "control/control.h"
#include "fuzz.h"
#include "store/store.h"

static void check_answer(const struct zc_text *answer)
{
    size_t announced = 0;
    int head = 0;

    if (sscanf(answer->data, "OK %zu\n%n", &announced, &head) == 1) {
        if (strchr(answer->data, '\n') + 1 + announced != answer->data + answer->len)
            abort();
    } else if (strncmp(answer->data, "ERR E", 5) != 0 ||
               strchr(answer->data, '\n') != answer->data + answer->len - 1) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct zc_control *control;
    zc_store *store = fuzz_store();
    const char *at = (const char *)data, *end = at + size;

    struct zc_mount mount = {zc_store_nodes, store};
    if (zc_control_create(&mount, 1, &control) != 0)
        abort();
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((newline ? newline : end) - at);
        struct zc_text answer = {0};
        if (zc_control_handle(control, at, len, &answer) != 0)
            abort();
        check_answer(&answer);
        zc_text_free(&answer);
        at += len + 1;
    }
    zc_control_destroy(control);
    zc_store_destroy(store);
    return 0;
}
