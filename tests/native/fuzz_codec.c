/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes what reads bytes of unknown origin: specs, and decompressors. The first line of the input is a
 * spec; the rest is taken for a zpage, and for a page whose zpage it then damages. Inputs of an odd length
 * are for runs. */
#include <errno.h>

#include "base/node.h"
#include "codec/codec.h"
#include "fuzz.h"

#define PAGE_SIZE 4096
#define RUN 4 /* pages */
#define DICTIONARY_ID 7
#define SPEC_MAX 64

static struct zc_dictionary *find_dictionary(void *arg, uint32_t id)
{
    return id == DICTIONARY_ID ? zc_dictionary_ref(arg) : NULL;
}

static void *get_memory(size_t size)
{
    void *memory = aligned_alloc(ZC_STATE_ALIGN, zc_div_up(size, ZC_STATE_ALIGN) * ZC_STATE_ALIGN);

    if (!memory)
        abort();
    return memory;
}

/* A refusal is one line that names the spec. */
static void check_refusal(int error, const char *spec, struct zc_text *why)
{
    if (error == -ENOMEM)
        return;
    if ((error != -EINVAL && error != -ENOENT) || !why->data || strchr(why->data, '\n') ||
        !strstr(why->data, spec))
        abort();
    zc_text_free(why);
}

/* In memory of its own, which ends where it does. */
static int decompress(const struct zc_codec *codec, void *state, const void *src, size_t size,
                      void *page)
{
    void *zpage = malloc(size ? size : 1);

    if (!zpage)
        abort();
    memcpy(zpage, src, size);
    int error = zc_decompress_some(codec, state, zpage, size, page, codec->block);
    if (error && error != -EIO)
        abort();
    error = zc_decompress(codec, state, zpage, size, page);
    free(zpage);
    if (error && error != -EIO)
        abort();
    return error;
}

static void try_codec(const struct zc_codec *codec, const uint8_t *data, size_t size)
{
    void *compressor = get_memory(codec->compressor_size);
    void *decompressor = get_memory(codec->decompressor_size);
    char *page = get_memory(codec->page_size), *back = get_memory(codec->page_size);
    char *zpage = malloc(codec->bound);

    if (!zpage)
        abort();
    zc_compressor_init(codec, compressor);
    zc_decompressor_init(codec, decompressor);
    decompress(codec, decompressor, data, size, back);

    for (size_t i = 0; i < codec->page_size; i++)
        page[i] = size ? (char)data[i % size] : 0;
    size_t len = zc_compress(codec, compressor, page, zpage);
    if (decompress(codec, decompressor, zpage, len, back) != 0 ||
        memcmp(page, back, codec->page_size) != 0)
        abort();
    for (size_t i = 0; i + 1 < size && i < 8; i += 2)
        zpage[data[i] * 17u % len] ^= (char)data[i + 1];
    decompress(codec, decompressor, zpage, len - (size ? data[0] % len : 0), back);

    free(zpage);
    free(back);
    free(page);
    free(decompressor);
    free(compressor);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char bytes[] = "what a page of words, words and numbers may well have in it";
    struct zc_dictionary *dictionary;
    struct zc_text why = {0};
    struct zc_codec *codec;
    char spec[SPEC_MAX];

    const uint8_t *newline = memchr(data, '\n', zc_min(size, SPEC_MAX - 1));
    size_t len = newline ? (size_t)(newline - data) : 0;
    memcpy(spec, data, len);
    spec[len] = '\0';
    if (zc_dictionary_create(DICTIONARY_ID, bytes, sizeof(bytes), &dictionary) != 0)
        abort();
    unsigned pages = size % 2 ? RUN : 1;
    int error = zc_codec_create(spec, PAGE_SIZE, pages, find_dictionary, dictionary, &codec, &why);
    if (error) {
        check_refusal(error, spec, &why);
    } else {
        size_t head = len + (newline != NULL);
        try_codec(codec, data + head, size - head);
        zc_codec_destroy(codec);
    }
    if (zc_dictionary_is_shared(dictionary))
        abort();
    zc_dictionary_unref(dictionary);
    return 0;
}
