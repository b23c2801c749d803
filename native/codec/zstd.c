/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zstd. Its contexts live in the states, sized for one page, and allocate nothing. A zpage is a frame
 * without what is known anyway: magic, content size, dictionary id, checksum. That of a run is in blocks,
 * of which the first ones can be decompressed alone.
 */
#include <errno.h>
#define ZSTD_STATIC_LINKING_ONLY /* static contexts, frames without magic, blocks */
#define ZSTD_DISABLE_DEPRECATE_WARNINGS
#include <zstd.h>

#include "base/base.h"
#include "codec/kind.h"

#define BLOCK_HEAD_BYTES 3u

/* What both states are: a context somewhere in the bytes behind. */
struct zstd_state {
    void *context;
    _Alignas(ZC_STATE_ALIGN) char workspace[];
};

static size_t zstd_compress(const struct zc_codec *codec, void *state, const void *page, void *dst)
{
    struct zstd_state *mine = state;
    size_t len = ZSTD_compress2(mine->context, dst, codec->bound, page, codec->page_size);

    ZC_ASSERT(!ZSTD_isError(len));
    return ZC_LIKELY(len <= codec->bound) ? len : codec->bound; /* larger than any zpage kept */
}

static int zstd_decompress(const struct zc_codec *codec, void *state, const void *src, size_t size,
                           void *page)
{
    struct zstd_state *mine = state;
    const ZSTD_DDict *digested =
        codec->dictionary ? zc_dictionary_digested(codec->dictionary) : NULL;
    size_t len =
        ZSTD_decompress_usingDDict(mine->context, page, codec->page_size, src, size, digested);

    return len == codec->page_size ? 0 : -EIO;
}

/* Block by block. */
static int zstd_decompress_some(const struct zc_codec *codec, void *state, const void *src,
                                size_t size, void *page, size_t upto)
{
    ZSTD_DCtx *context = ((struct zstd_state *)state)->context;
    const char *from = src;
    size_t done = 0, read = 0;

    ZSTD_decompressBegin_usingDDict(
        context, codec->dictionary ? zc_dictionary_digested(codec->dictionary) : NULL);
    while (done < upto) {
        size_t next = ZSTD_nextSrcSizeToDecompress(context);
        if (next == 0 || next > size - read)
            return -EIO;
        size_t len = ZSTD_decompressContinue(context, (char *)page + done, codec->page_size - done,
                                             from + read, next);
        if (ZSTD_isError(len))
            return -EIO;
        read += next;
        done += len;
    }
    return 0;
}

static ZSTD_compressionParameters parameters(const struct zc_codec *codec)
{
    size_t dictionary = codec->dictionary ? zc_dictionary_size(codec->dictionary) : 0;
    ZSTD_compressionParameters params = ZSTD_getCParams(codec->level, codec->page_size, dictionary);
    unsigned page_log = (unsigned)__builtin_ctzll(codec->page_size);

    /* A window beyond the page would only cost memory; a dictionary is not part of it. */
    params.windowLog = (unsigned)zc_max(ZSTD_WINDOWLOG_MIN, zc_min(params.windowLog, page_log));
    return params;
}

static void zstd_init_compressor(const struct zc_codec *codec, void *state)
{
    struct zstd_state *mine = state;
    ZSTD_CCtx *context =
        ZSTD_initStaticCCtx(mine->workspace, codec->compressor_size - sizeof(*mine));

    ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, codec->level);
    ZSTD_CCtx_setCParams(context, parameters(codec));
    ZSTD_CCtx_setParameter(context, ZSTD_c_format, ZSTD_f_zstd1_magicless);
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    ZSTD_CCtx_setParameter(context, ZSTD_c_dictIDFlag, 0);
    if (codec->block < codec->page_size)
        ZSTD_CCtx_setParameter(context, ZSTD_c_maxBlockSize,
                               (int)zc_min(codec->block, ZSTD_BLOCKSIZE_MAX));
    ZSTD_CCtx_refCDict(context, codec->digested);
    mine->context = context;
}

static void zstd_init_decompressor(const struct zc_codec *codec, void *state)
{
    struct zstd_state *mine = state;
    ZSTD_DCtx *context =
        ZSTD_initStaticDCtx(mine->workspace, codec->decompressor_size - sizeof(*mine));

    ZSTD_DCtx_setParameter(context, ZSTD_d_format, ZSTD_f_zstd1_magicless);
    mine->context = context;
}

static int digest(struct zc_codec *codec)
{
    codec->digested = ZSTD_createCDict_advanced(
        zc_dictionary_bytes(codec->dictionary), zc_dictionary_size(codec->dictionary),
        ZSTD_dlm_byRef, ZSTD_dct_auto, parameters(codec), ZSTD_defaultCMem);
    if (!codec->digested)
        return -ENOMEM;
    codec->memory += ZSTD_sizeof_CDict(codec->digested);
    return 0;
}

static int zstd_setup(struct zc_codec *codec)
{
    codec->bound = ZSTD_compressBound(codec->page_size) +
                   BLOCK_HEAD_BYTES * zc_div_up(codec->page_size, codec->block);
    codec->compressor_size =
        sizeof(struct zstd_state) + ZSTD_estimateCCtxSize_usingCParams(parameters(codec));
    codec->decompressor_size = sizeof(struct zstd_state) + ZSTD_estimateDCtxSize();
    codec->compress = zstd_compress;
    codec->decompress = zstd_decompress;
    if (codec->block < codec->page_size)
        codec->decompress_some = zstd_decompress_some;
    return codec->dictionary ? digest(codec) : 0;
}

static void zstd_teardown(struct zc_codec *codec)
{
    ZSTD_freeCDict(codec->digested);
}

const struct zc_codec_kind zc_zstd_kind = {
    .name = "zstd",
    .min_level = -5,
    .max_level = 19,
    .default_level = 1,
    .takes_dictionary = true,
    .setup = zstd_setup,
    .teardown = zstd_teardown,
    .init_compressor = zstd_init_compressor,
    .init_decompressor = zstd_init_decompressor,
};
