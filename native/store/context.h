/* SPDX-License-Identifier: Apache-2.0 */
/* What a running put needs beside the page: a codec's state and room for two zpages, this page's and
 * that of the one before in its batch. A store keeps as many as ever ran at one time. */
#ifndef ZC_STORE_CONTEXT_H
#define ZC_STORE_CONTEXT_H

#include "codec/codec.h"
#include "store/pool.h"

struct zc_context {
    struct zc_context *next;
    const struct zc_codec *codec;
    size_t size;    /* bytes of it all */
    char *zpage[2]; /* codec->bound bytes each */
    _Alignas(16) char state[];
};

/* NULL: out of memory. */
struct zc_context *zc_context_take(zc_store *store, const struct zc_codec *codec);
void zc_context_give(zc_store *store, struct zc_context *context);
void zc_contexts_free(zc_store *store);

#endif
