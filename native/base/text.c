/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "base/base.h"
#include "base/node.h"

/* Makes room for `extra` bytes and a NUL. */
static bool text_reserve(struct zc_text *text, size_t extra)
{
    if (text->error)
        return false;
    if (text->size - text->len > extra)
        return true;

    size_t size = zc_max(text->size * 2, text->len + extra + 1);
    char *data = realloc(text->data, size);
    if (!data) {
        text->error = -ENOMEM;
        return false;
    }
    text->data = data;
    text->size = size;
    return true;
}

void zc_text_append(struct zc_text *text, const char *data, size_t len)
{
    if (!text_reserve(text, len))
        return;
    if (len)
        memcpy(text->data + text->len, data, len);
    text->len += len;
    text->data[text->len] = '\0';
}

void zc_text_add(struct zc_text *text, const char *format, ...)
{
    va_list args, again;

    va_start(args, format);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    if (len >= 0 && text_reserve(text, (size_t)len)) {
        vsnprintf(text->data + text->len, (size_t)len + 1, format, again);
        text->len += (size_t)len;
    }
    va_end(again);
    va_end(args);
}

void zc_text_free(struct zc_text *text)
{
    free(text->data);
    *text = (struct zc_text){0};
}
