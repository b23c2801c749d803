/* SPDX-License-Identifier: Apache-2.0 */
/* What a kind of codec brings. Levels run from min_level to max_level without 0; both 0: it has none. */
#ifndef ZC_CODEC_KIND_H
#define ZC_CODEC_KIND_H

#include "codec/codec.h"

struct zc_codec_kind {
    const char *name;
    int min_level, max_level, default_level;
    bool takes_dictionary;
    /* Fills in the sizes, functions and what it digests; kind, level, page_size, block and dictionary
     * are set. -EINVAL: no dictionary for it; -ENOMEM. */
    int (*setup)(struct zc_codec *codec);
    void (*teardown)(struct zc_codec *codec); /* NULL: nothing to do */
    void (*init_compressor)(const struct zc_codec *codec, void *state);
    void (*init_decompressor)(const struct zc_codec *codec, void *state);
};

extern const struct zc_codec_kind zc_lz4_kind, zc_zstd_kind, zc_lzo_kind, zc_none_kind;
/* Of libzcsim.so alone; elsewhere its address is NULL. */
extern const struct zc_codec_kind zc_simulated_kind __attribute__((weak, visibility("hidden")));

/* The copied bytes. */
const void *zc_dictionary_bytes(const struct zc_dictionary *dictionary);
/* What zstd made of them to decompress, a ZSTD_DDict. */
const void *zc_dictionary_digested(const struct zc_dictionary *dictionary);

#endif
