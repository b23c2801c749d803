/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The codec of pages that are numbers: a zpage has the numbers of its pages in it, and as many bytes as the
 * record says. It finds the simulation by its dictionary. Level 1 stands for the pool's codec, 2 for the cold one.
 */
#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "codec/kind.h"
#include "sim/inside.h"

#define COLD 2
#define MILLION 1000000u

static zc_sim *sim_of(const struct zc_codec *codec)
{
    struct zc_sim_link link;

    memcpy(&link, zc_dictionary_bytes(codec->dictionary), sizeof(link));
    return link.sim;
}

static unsigned span_of(const zc_sim *sim, const struct zc_codec *codec)
{
    return (unsigned)__builtin_ctzll(zc_div_pow2(codec->page_size, sim->page_size));
}

/* By one of the two codecs, alone; no page, 0, takes nothing. */
static uint64_t size_of(const zc_sim *sim, const struct zc_codec *codec, uint32_t number)
{
    if (number == 0 || number > sim->stream->count)
        return 0;
    return codec->level == COLD ? sim->stream->colds[number - 1] : sim->stream->sizes[number - 1];
}

static size_t simulated_compress(const struct zc_codec *codec, void *state, const void *page,
                                 void *dst)
{
    zc_sim *sim = sim_of(codec);
    unsigned span = span_of(sim, codec);
    size_t pages = (size_t)1 << span;
    uint64_t size = 0;

    (void)state;
    for (size_t i = 0; i < pages; i++) {
        uint32_t number;
        memcpy(&number, (const char *)page + i * sim->page_size, sizeof(number));
        memcpy((char *)dst + i * sizeof(number), &number, sizeof(number));
        size += size_of(sim, codec, number);
    }
    if (codec->level == COLD) {
        sim->counts.compressed_cold[span]++;
        size = size * sim->gain[span] / MILLION;
    } else {
        sim->counts.compressed++;
    }
    return (size_t)zc_min64(zc_max64(size, pages * sizeof(uint32_t)), codec->bound);
}

static int simulated_decompress_some(const struct zc_codec *codec, void *state, const void *src,
                                     size_t size, void *page, size_t upto)
{
    zc_sim *sim = sim_of(codec);
    unsigned span = span_of(sim, codec);
    size_t pages = (size_t)1 << span;

    (void)state;
    if (size < pages * sizeof(uint32_t))
        return -EIO;
    for (size_t i = 0; i < pages; i++)
        memcpy((char *)page + i * sim->page_size, (const char *)src + i * sizeof(uint32_t),
               sizeof(uint32_t));
    if (codec->level == COLD) /* whole blocks of a run are made pages again */
        sim->counts.decompressed_cold[span] +=
            zc_div_pow2(zc_div_up(upto, codec->block) * codec->block, sim->page_size);
    else
        sim->counts.decompressed++;
    return 0;
}

static int simulated_decompress(const struct zc_codec *codec, void *state, const void *src,
                                size_t size, void *page)
{
    return simulated_decompress_some(codec, state, src, size, page, codec->page_size);
}

/* As large as what it stands for. */
static int simulated_setup(struct zc_codec *codec)
{
    struct zc_codec *real;

    if (!codec->dictionary)
        return -EINVAL;
    zc_sim *sim = sim_of(codec);
    const char *spec = codec->level == COLD ? sim->cold_codec : sim->codec;
    unsigned pages = 1u << span_of(sim, codec);
    int error = zc_codec_create(spec, sim->page_size, pages, NULL, NULL, &real, NULL);
    if (error)
        return error;
    codec->bound = zc_max(real->bound, pages * sizeof(uint32_t));
    codec->compressor_size = real->compressor_size;
    codec->decompressor_size = real->decompressor_size;
    codec->memory = real->memory;
    codec->compress = simulated_compress;
    codec->decompress = simulated_decompress;
    codec->decompress_some = simulated_decompress_some;
    zc_codec_destroy(real);
    return 0;
}

static void simulated_init(const struct zc_codec *codec, void *state)
{
    (void)codec;
    (void)state;
}

const struct zc_codec_kind zc_simulated_kind = {
    .name = "simulated",
    .min_level = 1,
    .max_level = COLD,
    .default_level = 1,
    .takes_dictionary = true,
    .setup = simulated_setup,
    .init_compressor = simulated_init,
    .init_decompressor = simulated_init,
};
