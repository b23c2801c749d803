/* SPDX-License-Identifier: Apache-2.0 */
/* Codecs. A codec's state belongs to one thread at a time and is used again for page after page. */
#ifndef ZC_CODEC_CODEC_H
#define ZC_CODEC_CODEC_H

#include <stddef.h>

struct zc_codec {
    const char *name;
    size_t state_size;
    void (*init)(void *state);
    /* The most that compressing `size` bytes can give. */
    size_t (*bound)(size_t size);
    /* Bytes written to dst, which has room for bound(size). */
    size_t (*compress)(void *state, const void *src, size_t size, void *dst);
    /* 0, or -EIO: src is not what compress gave for dst_size bytes. Writes dst only. */
    int (*decompress)(const void *src, size_t size, void *dst, size_t dst_size);
};

/* NULL: no codec of that name. */
const struct zc_codec *zc_codec_find(const char *name);

extern const struct zc_codec zc_lz4_codec;

#endif
