/* SPDX-License-Identifier: Apache-2.0 */
/* Values as the control tree takes and shows them. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "store/nodes.h"
#include "store/pool.h"
#include "store/store.h"

bool zc_parse_number(const char *value, uint64_t *out, const char **end)
{
    char *rest;

    if (*value < '0' || *value > '9')
        return false;
    errno = 0;
    *out = strtoull(value, &rest, 10);
    *end = rest;
    return errno == 0;
}

int zc_parse_threshold(const char *value, size_t page_size, uint64_t *out)
{
    uint64_t number, divisor;
    const char *end;

    if (!zc_parse_number(value, &number, &end))
        return -EINVAL;
    if (number > UINT32_MAX)
        return -ERANGE;
    if (strcmp(end, "%") == 0) {
        number = number * page_size / 100;
    } else if (*end == '/') {
        if (!zc_parse_number(end + 1, &divisor, &end) || *end || divisor == 0)
            return -EINVAL;
        number = number * page_size / divisor;
    } else if (*end) {
        return -EINVAL;
    }
    if (number > page_size)
        return -ERANGE;
    *out = number;
    return 0;
}

int zc_parse_size(const char *value, uint64_t total, uint64_t *out)
{
    static const char suffixes[] = "KMG";
    uint64_t number;
    const char *end, *suffix;

    if (!zc_parse_number(value, &number, &end))
        return -EINVAL;
    if (strcmp(end, "%") == 0) {
        if (number > 100)
            return -ERANGE;
        *out = total / 100 * number;
        return 0;
    }
    unsigned shift = 0;
    if (*end && (suffix = strchr(suffixes, *end)) && !end[1])
        shift = 10 * (unsigned)(suffix - suffixes + 1);
    else if (*end)
        return -EINVAL;
    if (number > UINT64_MAX >> shift)
        return -ERANGE;
    *out = number << shift;
    return 0;
}

int zc_node_complain(struct zc_text *why, int error, const char *value, const struct zc_node *node,
                     const char *allowed)
{
    zc_text_add(why, "%s: '%s' is %s; allowed: %s", node->name, value,
                error == -ERANGE ? "out of range" : "not a value", allowed);
    return error;
}

void zc_show_u64(struct zc_text *out, uint64_t value)
{
    zc_text_add(out, "%" PRIu64, value);
}

int zc_show_field(void *view, const struct zc_node *node, struct zc_text *out)
{
    uint64_t value;

    memcpy(&value, (const char *)view + node->arg, sizeof(value));
    zc_show_u64(out, value);
    return 0;
}
