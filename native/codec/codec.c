/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds of this build, and codecs by their spec. */
#include "codec/codec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/node.h"
#include "codec/kind.h"

/* Of a run: more blocks, or smaller ones, cost more bytes than the time of a get is worth. */
#define BLOCK_PAGES 2u
#define BLOCKS_MAX 4u

static const struct zc_codec_kind *const kinds[] = {
    &zc_lz4_kind,
    &zc_zstd_kind,
#ifdef ZC_LZO
    &zc_lzo_kind,
#endif
    &zc_none_kind,
};

const char *zc_codec_names(void)
{
#ifdef ZC_LZO
    return "lz4 zstd lzo none";
#else
    return "lz4 zstd none";
#endif
}

/* ---- specs ---- */

/* What a spec asks for. */
struct wish {
    const struct zc_codec_kind *kind;
    int level;
    bool has_dictionary;
    uint32_t dictionary;
};

static int refuse(struct zc_text *why, const char *spec, const char *what, const char *allowed)
{
    if (why)
        zc_text_add(why, "codec '%s': %s%s", spec, what, allowed);
    return -EINVAL;
}

static bool is_named(const struct zc_codec_kind *kind, const char *name, size_t len)
{
    return strlen(kind->name) == len && memcmp(kind->name, name, len) == 0;
}

static const struct zc_codec_kind *find_kind(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (is_named(kinds[i], name, len))
            return kinds[i];
    }
    return &zc_simulated_kind && is_named(&zc_simulated_kind, name, len) ? &zc_simulated_kind
                                                                         : NULL;
}

/* A whole number of at most 10 digits that ends where the spec or its part does; moves *at there. */
static bool parse_digits(const char **at, uint64_t *value)
{
    const char *start = *at;

    for (*value = 0; **at >= '0' && **at <= '9' && *at - start < 10; ++*at)
        *value = *value * 10 + (uint64_t)(**at - '0');
    return *at > start && (**at == '\0' || **at == ':');
}

static bool parse_level(const char **at, const struct zc_codec_kind *kind, int *level)
{
    bool negative = **at == '-';
    uint64_t value;

    *at += negative;
    if (!parse_digits(at, &value) || value == 0 || value > INT32_MAX)
        return false;
    *level = negative ? -(int)value : (int)value;
    return *level >= kind->min_level && *level <= kind->max_level;
}

static int refuse_level(struct zc_text *why, const char *spec, const struct zc_codec_kind *kind)
{
    if (!kind->max_level)
        return refuse(why, spec, kind->name, " takes no level");
    if (why)
        zc_text_add(why, "codec '%s': the level of %s is %d..%d%s", spec, kind->name,
                    kind->min_level, kind->max_level, kind->min_level < 0 ? " without 0" : "");
    return -EINVAL;
}

static int parse(const char *spec, struct wish *wish, struct zc_text *why)
{
    static const char dict[] = "dict=";
    const char *at = spec + strcspn(spec, ":");
    uint64_t id;

    *wish = (struct wish){.kind = find_kind(spec, (size_t)(at - spec))};
    if (!wish->kind)
        return refuse(why, spec, "not one of ", zc_codec_names());
    wish->level = wish->kind->default_level;

    if (*at == ':' && strncmp(at + 1, dict, sizeof(dict) - 1) != 0) {
        at++;
        if (!parse_level(&at, wish->kind, &wish->level))
            return refuse_level(why, spec, wish->kind);
    }
    if (*at == '\0')
        return 0;
    at++;
    if (strncmp(at, dict, sizeof(dict) - 1) != 0)
        return refuse(why, spec, "not NAME[:LEVEL][:dict=ID]", "");
    if (!wish->kind->takes_dictionary)
        return refuse(why, spec, wish->kind->name, " takes no dictionary");
    at += sizeof(dict) - 1;
    if (!parse_digits(&at, &id) || *at || id > UINT32_MAX)
        return refuse(why, spec, "a dictionary's id is a whole number, ", "see dictionaries/");
    wish->has_dictionary = true;
    wish->dictionary = (uint32_t)id;
    return 0;
}

void zc_codec_spec(const struct zc_codec *codec, struct zc_text *out)
{
    zc_text_add(out, "%s", codec->kind->name);
    if (codec->level != codec->kind->default_level)
        zc_text_add(out, ":%d", codec->level);
    if (codec->dictionary)
        zc_text_add(out, ":dict=%u", zc_dictionary_id(codec->dictionary));
}

/* ---- codecs ---- */

static int take_dictionary(struct zc_codec *codec, const char *spec, uint32_t id,
                           zc_dictionary_find *find, void *arg, struct zc_text *why)
{
    codec->dictionary = find ? find(arg, id) : NULL;
    if (codec->dictionary)
        return 0;
    refuse(why, spec, "no such dictionary, ", "see dictionaries/");
    return -ENOENT;
}

int zc_codec_create(const char *spec, size_t page_size, unsigned pages, zc_dictionary_find *find,
                    void *arg, struct zc_codec **out, struct zc_text *why)
{
    struct wish wish;
    int error = parse(spec, &wish, why);
    if (error)
        return error;

    struct zc_codec *codec = calloc(1, sizeof(*codec));
    if (!codec)
        return -ENOMEM;
    codec->kind = wish.kind;
    codec->level = wish.level;
    codec->page_size = codec->block = page_size * pages;
    if (pages > BLOCK_PAGES)
        codec->block = page_size * zc_max(BLOCK_PAGES, pages / BLOCKS_MAX);
    codec->memory = sizeof(*codec);
    if (wish.has_dictionary)
        error = take_dictionary(codec, spec, wish.dictionary, find, arg, why);
    if (!error)
        error = codec->kind->setup(codec);
    if (error) {
        zc_codec_destroy(codec);
        return error;
    }
    *out = codec;
    return 0;
}

void zc_codec_destroy(struct zc_codec *codec)
{
    if (!codec)
        return;
    if (codec->kind->teardown)
        codec->kind->teardown(codec);
    zc_dictionary_unref(codec->dictionary);
    free(codec);
}

bool zc_codec_is_same(const struct zc_codec *a, const struct zc_codec *b)
{
    return a->kind == b->kind && a->level == b->level && a->page_size == b->page_size &&
           a->dictionary == b->dictionary;
}

void zc_compressor_init(const struct zc_codec *codec, void *state)
{
    if (codec->compressor_size)
        codec->kind->init_compressor(codec, state);
}

void zc_decompressor_init(const struct zc_codec *codec, void *state)
{
    if (codec->decompressor_size)
        codec->kind->init_decompressor(codec, state);
}
