/* SPDX-License-Identifier: Apache-2.0 */
/* What the measurements of zc_bench share. */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <zcache/store.h>

#define BATCH 32u
#define THIS_CPU 0  /* who puts and gets */
#define OTHER_CPU 1 /* who makes memory ready; through the socket, the client too */

struct options {
    const char *file;
    size_t page_size, rounds;
    size_t most; /* pages; of a longer file it takes so many, evenly */
    const char *allocator, *codec;
    bool checksums, ephemeral;
    const char *device; /* zram; backing: a file that is made */
    bool only_device;
    const char *dir, *pool; /* socket */
    uint64_t few, many;     /* scale, compact */
};

/* A measurement: prints one JSON object. */
void inproc(const struct options *options);
void over_socket(const struct options *options);
void scale(const struct options *options);
void used(const struct options *options);
void zram(const struct options *options);
void threads(const struct options *options);
void compact(const struct options *options);
void sizes(const struct options *options);
void reclaim(const struct options *options);
void entropy(const struct options *options);
void backing(const struct options *options);
void cold(const struct options *options);
void heap(const struct options *options);
void record(const struct options *options);
void codecs(const struct options *options);

/* ---- common.c: the process, its clock, its output ---- */

_Noreturn void die(const char *what, const char *value);
double now_ns(void);
/* A thread, 0: this one, and those it starts from now on. Cores differ, and a virtual machine's
 * scheduler may leave two busy threads on one; a machine of one core has no choice. */
void run_on(unsigned cpu, pid_t thread);
/* This thread, and those it starts: THIS_CPU and OTHER_CPU, as they like. */
void run_on_both(void);
/* Page-aligned; ends the process where there is none. */
void *get_memory(size_t bytes);
/* A hypervisor gives a machine memory when it is touched, and takes back what was free for seconds:
 * what is timed next finds some that is there. */
void touch_memory(size_t bytes);
/* "NAME": [the rounds' numbers],  */
void print_series(const char *name, const double *series, size_t count);
/* The same; NAME is in two parts. */
void print_series_of(const char *side, const char *what, const double *series, size_t count);

/* ---- pages.c: real pages ---- */

struct pages {
    size_t page_size, count;
    size_t first;       /* number of the first one */
    size_t same_filled; /* of the file's, left out */
    char *bytes;
};

static inline char *page_at(const struct pages *pages, size_t i)
{
    return pages->bytes + i * pages->page_size;
}

enum which_pages {
    PAGES_ALL,
    PAGES_NOT_SAME_FILLED,
    PAGES_STORED, /* of these: that the default zv_max_zsize keeps */
};

void pages_load(struct pages *pages, const struct options *options, enum which_pages which);
void pages_free(struct pages *pages);
/* Part `i` of `parts` alike. It is borrowed. */
struct pages pages_part(const struct pages *pages, size_t i, size_t parts);
/* At most `count` from the `from`th on. They are borrowed. */
struct pages pages_from(const struct pages *pages, size_t from, size_t count);
/* Page `i` of any number of distinct ones: a real page with its number stamped into it. */
const char *distinct(const struct pages *pages, uint64_t i, char *page);
/* Random, in one of four objects; distinct for distinct i below 2^32. */
void key_of(uint64_t i, uint64_t *object, uint32_t *index);

/* ---- alone.c: the store's codec without the store, into memory that is resident ---- */

struct alone;

enum alone_places {
    ALONE_APART,  /* a buffer for each page, as large as a zpage may be */
    ALONE_PACKED, /* one after another, as nobody could keep them who frees them one by one */
};

struct alone *alone_new(const char *codec, const struct pages *pages, enum alone_places places);
/* Another thread's: a state of its own, the buffers of `other`, which outlives it. */
struct alone *alone_beside(const struct alone *other, const char *codec, size_t page_size);
void alone_free(struct alone *alone);
/* Nanoseconds a page. Of ALONE_APART, a part of the pages will do. */
double alone_put(struct alone *alone, const struct pages *pages);
/* To `slots` pages in turns. */
double alone_get(const struct alone *alone, const struct pages *pages, char *room, size_t slots);
uint32_t alone_size(const struct alone *alone, size_t page); /* bytes, once it was put */
const char *alone_bytes(const struct alone *alone);          /* the packed buffer */

/* ---- mm_stat.c: a zram device's memory ---- */

#define ZRAM_ENTRY 16u /* bytes, of its table, a page; not in `total` */

struct zram_use {
    uint64_t compressed, total; /* bytes: of the pages, of memory */
    uint64_t same_filled, huge; /* pages; huge ones are kept as they are */
};

/* `device`: its file. */
struct zram_use zram_use(const char *device);

/* ---- instore.c: the store ---- */

/* The thread that makes its memory ready runs on OTHER_CPU. */
zc_store *open_store(size_t page_size);
zc_store *open_store_on(unsigned cpu, size_t page_size);
/* Refuses only what zv_max_zsize or the allocator does; gets leave pages where they are. */
zc_pool *open_pool(zc_store *store, const struct options *options);
void close_pool(zc_pool *pool);
/* Bytes that the store uses without its reserve, which is given apart. */
uint64_t store_bytes(zc_store *store, uint64_t *reserve);
/* By batches, a page's number its index in object 1. Nanoseconds a page. */
double store_put(zc_pool *pool, const struct pages *pages);
/* To `slots` pages in turns, a multiple of BATCH or 1; every page must be there. */
double store_get(zc_pool *pool, const struct pages *pages, char *room, size_t slots);
/* Puts distinct pages `from` to `to` under their own keys. Nanoseconds a page, without the making of
 * the pages. */
double put_distinct(zc_pool *pool, const struct pages *pages, uint64_t from, uint64_t to);

#endif
