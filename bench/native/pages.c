/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "bench.h"

static bool is_same_filled(const char *page, size_t page_size)
{
    return memcmp(page, page + 8, page_size - 8) == 0;
}

static void read_all(struct pages *pages, const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0)
        die(strerror(errno), path);
    size_t count = (size_t)st.st_size / pages->page_size;
    pages->bytes = get_memory(count * pages->page_size);
    while (pages->count < count &&
           read(fd, page_at(pages, pages->count), pages->page_size) == (ssize_t)pages->page_size)
        pages->count++;
    close(fd);
}

/* Leaves those for which keep[i]. */
static void thin_out(struct pages *pages, const bool *keep)
{
    size_t kept = 0;

    for (size_t i = 0; i < pages->count; i++) {
        if (keep[i] && i != kept)
            memcpy(page_at(pages, kept), page_at(pages, i), pages->page_size);
        kept += keep[i];
    }
    pages->count = kept;
}

static void thin_out_evenly(struct pages *pages, size_t most)
{
    size_t before = pages->count;

    if (before <= most)
        return;
    pages->count = most;
    for (size_t i = 0; i < most; i++)
        memmove(page_at(pages, i), page_at(pages, i * before / most), pages->page_size);
}

static void leave_out_same_filled(struct pages *pages)
{
    bool *keep = get_memory(pages->count);
    size_t before = pages->count;

    for (size_t i = 0; i < pages->count; i++)
        keep[i] = !is_same_filled(page_at(pages, i), pages->page_size);
    thin_out(pages, keep);
    pages->same_filled = before - pages->count;
    free(keep);
}

static void leave_out_refused(struct pages *pages, const char *codec)
{
    bool *keep = get_memory(pages->count);
    struct alone *alone = alone_new(codec, pages, ALONE_APART);

    alone_put(alone, pages);
    for (size_t i = 0; i < pages->count; i++)
        keep[i] = alone_size(alone, i) <= pages->page_size / 8 * 7;
    thin_out(pages, keep);
    alone_free(alone);
    free(keep);
}

void pages_load(struct pages *pages, const struct options *options, enum which_pages which)
{
    *pages = (struct pages){.page_size = options->page_size};
    read_all(pages, options->file);
    if (which != PAGES_ALL)
        leave_out_same_filled(pages);
    thin_out_evenly(pages, options->most);
    if (which == PAGES_STORED)
        leave_out_refused(pages, options->codec);
    if (!pages->count)
        die("it has no page", options->file);
}

void pages_free(struct pages *pages)
{
    free(pages->bytes);
}

struct pages pages_part(const struct pages *pages, size_t i, size_t parts)
{
    size_t from = pages->count * i / parts, to = pages->count * (i + 1) / parts;

    return pages_from(pages, from, to - from);
}

struct pages pages_from(const struct pages *pages, size_t from, size_t count)
{
    struct pages part = *pages;

    part.first = pages->first + from;
    part.count = zc_min(count, pages->count - from);
    part.bytes = page_at(pages, from);
    return part;
}

const char *distinct(const struct pages *pages, uint64_t i, char *page)
{
    memcpy(page, page_at(pages, i % pages->count), pages->page_size);
    for (size_t at = 0; at < pages->page_size; at += 1024)
        memcpy(page + at, &i, sizeof(i));
    return page;
}

/* Spreads the bits of 32; a bijection (MurmurHash3's finalizer, Appleby, public domain). */
static uint32_t mix32(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x85ebca6bu;
    x ^= x >> 13;
    x *= 0xc2b2ae35u;
    return x ^ x >> 16;
}

void key_of(uint64_t i, uint64_t *object, uint32_t *index)
{
    *index = mix32((uint32_t)i);
    *object = zc_mix64(*index) & 3;
}
