/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SQLite with its page cache in a compressed heap: a database in memory that is larger than the memory it may take.
 * With FILE, it is written to that file and read back through the same cache.
 *
 *   cc -D_GNU_SOURCE -Inative/include examples/sqlite.c -Lbuild/host -lzcache -lsqlite3 -o build/sqlite
 *   LD_LIBRARY_PATH=build/host build/sqlite [FILE]
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <sqlite3.h>
#include <zcache/heap.h>

#define BUDGET (8u << 20) /* bytes of the cache, uncompressed */
#define LINES 256         /* that a cache gets memory for at a time */

/*
 * The page cache (https://sqlite.org/c3ref/pcache_methods2.html). The pages are in the heap, what SQLite
 * asks on the way to them is not: a page is touched only when SQLite wants its bytes.
 *
 * A file is read into pages that SQLite holds, and written from such, by system calls: those of a purgeable cache, which a
 * file is behind, are pinned for as long. SQLite never lets go of the pages of a database in memory, and
 * gives them to no system call: they are not pinned.
 */
struct line {
    sqlite3_pcache_page page; /* its bytes, and what SQLite notes beside them */
    unsigned key;
    struct line *next;            /* of its bucket, or free */
    struct line *older, *younger; /* of those nobody holds; NULL: it is held */
};

struct chunk {
    struct chunk *next;
    void *memory; /* the heap's */
    char *extra;
    struct line lines[LINES];
};

struct cache {
    size_t page_size, extra_size;
    bool is_purgeable;
    unsigned most, count, held;
    struct chunk *chunks;
    struct line *free, **buckets;
    unsigned bucket_count; /* a power of two */
    struct line idle;      /* the ring's head: idle.younger is the oldest */
};

static zc_heap *the_heap; /* that the caches of this process are in */

static struct line **bucket_of(const struct cache *cache, unsigned key)
{
    return &cache->buckets[key & (cache->bucket_count - 1)];
}

static struct line *find(const struct cache *cache, unsigned key)
{
    struct line *line = *bucket_of(cache, key);

    while (line && line->key != key)
        line = line->next;
    return line;
}

static void insert(struct cache *cache, struct line *line, unsigned key)
{
    struct line **bucket = bucket_of(cache, key);

    line->key = key;
    line->next = *bucket;
    *bucket = line;
}

static void take_out(struct cache *cache, struct line *line)
{
    struct line **at = bucket_of(cache, line->key);

    while (*at != line)
        at = &(*at)->next;
    *at = line->next;
}

/* Twice as many buckets; where there is no memory for them the old ones do. */
static void grow(struct cache *cache)
{
    unsigned old_count = cache->bucket_count;
    struct line **old = cache->buckets, **more = calloc(2 * (size_t)old_count, sizeof(*more));

    if (!more)
        return;
    cache->buckets = more;
    cache->bucket_count *= 2;
    for (unsigned i = 0; i < old_count; i++) {
        for (struct line *line = old[i], *next; line; line = next) {
            next = line->next;
            insert(cache, line, line->key);
        }
    }
    free(old);
}

/* Somebody holds it from now on. False: there is no memory for it. */
static bool hold(struct cache *cache, struct line *line)
{
    if (cache->is_purgeable && zc_heap_pin(the_heap, line->page.pBuf, cache->page_size) != 0)
        return false;
    if (line->older) {
        line->older->younger = line->younger;
        line->younger->older = line->older;
        line->older = line->younger = NULL;
    }
    cache->held++;
    return true;
}

static void let_go(struct cache *cache, struct line *line)
{
    if (cache->is_purgeable)
        zc_heap_unpin(the_heap, line->page.pBuf, cache->page_size);
    line->older = cache->idle.older;
    line->younger = &cache->idle;
    line->older->younger = cache->idle.older = line;
    cache->held--;
}

/* Out of the cache; nobody holds it. */
static void drop(struct cache *cache, struct line *line)
{
    take_out(cache, line);
    line->older->younger = line->younger;
    line->younger->older = line->older;
    line->older = line->younger = NULL;
    line->next = cache->free;
    cache->free = line;
    cache->count--;
}

static bool add_chunk(struct cache *cache)
{
    struct chunk *chunk = calloc(1, sizeof(*chunk));
    char *extra = calloc(LINES, cache->extra_size);

    if (!chunk || !extra || zc_heap_map(the_heap, LINES * cache->page_size, &chunk->memory) != 0) {
        free(extra);
        free(chunk);
        return false;
    }
    chunk->extra = extra;
    chunk->next = cache->chunks;
    cache->chunks = chunk;
    for (size_t i = LINES; i--;) {
        struct line *line = &chunk->lines[i];
        line->page.pBuf = (char *)chunk->memory + i * cache->page_size;
        line->page.pExtra = extra + i * cache->extra_size;
        line->next = cache->free;
        cache->free = line;
    }
    return true;
}

/* One that SQLite has not asked for before. NULL: it is to do without. */
static struct line *new_line(struct cache *cache, unsigned key, bool is_needed)
{
    if (cache->is_purgeable && cache->count >= cache->most) {
        if (cache->count > cache->held)
            drop(cache, cache->idle.younger);
        else if (!is_needed)
            return NULL;
    }
    if (!cache->free && !add_chunk(cache))
        return NULL;
    struct line *line = cache->free;
    if (!hold(cache, line))
        return NULL;
    cache->free = line->next;
    if (++cache->count > cache->bucket_count)
        grow(cache);
    *(void **)line->page.pExtra = NULL; /* how SQLite knows a new one */
    insert(cache, line, key);
    return line;
}

static int cache_init(void *arg)
{
    (void)arg;
    return SQLITE_OK;
}

static void cache_destroy(sqlite3_pcache *at)
{
    struct cache *cache = (struct cache *)at;

    for (struct chunk *chunk = cache->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        zc_heap_unmap(the_heap, chunk->memory);
        free(chunk->extra);
        free(chunk);
    }
    free(cache->buckets);
    free(cache);
}

static sqlite3_pcache *cache_create(int page_size, int extra_size, int is_purgeable)
{
    struct cache *cache = calloc(1, sizeof(*cache));

    if (!cache)
        return NULL;
    *cache = (struct cache){
        .page_size = (size_t)page_size,
        .extra_size = ((size_t)extra_size + 7) / 8 * 8,
        .is_purgeable = is_purgeable,
        .buckets = calloc(LINES, sizeof(struct line *)),
        .bucket_count = LINES,
    };
    cache->idle.older = cache->idle.younger = &cache->idle;
    if (cache->buckets)
        return (sqlite3_pcache *)cache;
    free(cache);
    return NULL;
}

static void cache_set_most(sqlite3_pcache *at, int most)
{
    struct cache *cache = (struct cache *)at;

    cache->most = (unsigned)most;
    while (cache->is_purgeable && cache->count > cache->most && cache->count > cache->held)
        drop(cache, cache->idle.younger);
}

static int cache_count(sqlite3_pcache *at)
{
    return (int)((struct cache *)at)->count;
}

static sqlite3_pcache_page *cache_fetch(sqlite3_pcache *at, unsigned key, int how)
{
    struct cache *cache = (struct cache *)at;
    struct line *line = find(cache, key);

    if (!line)
        line = how ? new_line(cache, key, how == 2) : NULL;
    else if (line->older && !hold(cache, line))
        line = NULL;
    return line ? &line->page : NULL;
}

static void cache_unpin(sqlite3_pcache *at, sqlite3_pcache_page *page, int is_discarded)
{
    struct cache *cache = (struct cache *)at;
    struct line *line = (struct line *)page;

    let_go(cache, line);
    if (is_discarded)
        drop(cache, line);
}

/* A page gets another number, and what had that goes. */
static void cache_rekey(sqlite3_pcache *at, sqlite3_pcache_page *page, unsigned from, unsigned to)
{
    struct cache *cache = (struct cache *)at;
    struct line *line = (struct line *)page, *there = find(cache, to);

    (void)from;
    if (there) {
        if (!there->older)
            let_go(cache, there);
        drop(cache, there);
    }
    take_out(cache, line);
    insert(cache, line, to);
}

static void cache_truncate(sqlite3_pcache *at, unsigned first)
{
    struct cache *cache = (struct cache *)at;

    for (unsigned i = 0; i < cache->bucket_count; i++) {
        for (struct line *line = cache->buckets[i], *next; line; line = next) {
            next = line->next;
            if (line->key < first)
                continue;
            if (!line->older)
                let_go(cache, line);
            drop(cache, line);
        }
    }
}

static const sqlite3_pcache_methods2 methods = {
    .iVersion = 1,
    .xInit = cache_init,
    .xCreate = cache_create,
    .xCachesize = cache_set_most,
    .xPagecount = cache_count,
    .xFetch = cache_fetch,
    .xUnpin = cache_unpin,
    .xRekey = cache_rekey,
    .xTruncate = cache_truncate,
    .xDestroy = cache_destroy,
};

/* ---- what is done with it ---- */

/* Lines of text like a log's, found by number and by name; some change, and some go. */
static const char fill[] =
    "CREATE TABLE line(id INTEGER PRIMARY KEY, name TEXT, text TEXT);"
    "BEGIN;"
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000)"
    " INSERT INTO line SELECT i, printf('name %d', i * 7919 % 150001),"
    "  printf('%08d connection from 10.%d.%d.%d closed after %d ms; ', i, i % 7, i % 251, i * 31 % "
    "251, i * i % 9973)"
    "  || printf('%d bytes sent, %d received, no error', i * 17 % 65521, i * 23 % 4093) FROM n;"
    "CREATE INDEX by_name ON line(name);"
    "COMMIT;"
    "UPDATE line SET text = text || '; seen again' WHERE id % 10 = 3;"
    "DELETE FROM line WHERE id % 10 = 7;";

static int check(sqlite3 *db, const char *what)
{
    sqlite3_stmt *query;
    int error = sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &query, NULL);

    if (!error && sqlite3_step(query) == SQLITE_ROW)
        printf("%s: integrity_check: %s\n", what, (const char *)sqlite3_column_text(query, 0));
    sqlite3_finalize(query);
    return error;
}

static int find_some(sqlite3 *db)
{
    sqlite3_stmt *query;
    uint32_t random = 1;
    unsigned found = 0;
    int error =
        sqlite3_prepare_v2(db, "SELECT text FROM line WHERE name = 'name ' || ?", -1, &query, NULL);

    for (int i = 0; i < 5000 && !error; i++) {
        random = random * 1664525 + 1013904223;
        sqlite3_bind_int(query, 1, (int)(random % 150001));
        found += sqlite3_step(query) == SQLITE_ROW;
        error = sqlite3_reset(query);
    }
    sqlite3_finalize(query);
    printf("%u of 5000 found\n", found);
    return error;
}

static int64_t number(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *query;
    int64_t value = 0;

    if (sqlite3_prepare_v2(db, sql, -1, &query, NULL) == SQLITE_OK &&
        sqlite3_step(query) == SQLITE_ROW)
        value = sqlite3_column_int64(query, 0);
    sqlite3_finalize(query);
    return value;
}

static void show(sqlite3 *db, zc_pool *pool)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct zc_heap_stats stats;
    struct zc_pool_stats pool_stats;

    usleep(50000); /* what came back last has left the pool by then */
    zc_heap_get_stats(the_heap, &stats);
    zc_pool_get_stats(pool, &pool_stats);
    printf(
        "database: %" PRId64 " KiB: %" PRIu64 " KiB in memory, %" PRIu64
        " KiB in a pool of %" PRIu64 " KiB\n",
        number(db, "SELECT page_count * page_size / 1024 FROM pragma_page_count, pragma_page_size"),
        stats.resident_pages * page / 1024, stats.stored_pages * page / 1024,
        pool_stats.used_bytes / 1024);
    printf("%" PRIu64 " pages put away, %" PRIu64 " brought back, %" PRIu64
           " more before they had gone\n",
           stats.evicted, stats.faults_stored + stats.read_ahead, stats.faults_waiting);
}

/* Reads and changes a file through the cache: its pages are pinned while system calls have them. */
static int use_file(sqlite3 *file)
{
    int error = sqlite3_exec(file, "PRAGMA cache_size = 4000", NULL, NULL, NULL);

    if (!error)
        error = find_some(file);
    if (!error)
        error = sqlite3_exec(file, "UPDATE line SET text = upper(text) WHERE id % 5 = 1", NULL,
                             NULL, NULL);
    return error ? error : check(file, "file");
}

static int use_memory(sqlite3 *db)
{
    int error = sqlite3_exec(db, fill, NULL, NULL, NULL);

    if (!error)
        error = find_some(db);
    return error ? error : check(db, "memory");
}

static int save(sqlite3 *db, const char *path)
{
    char *sql = sqlite3_mprintf("VACUUM INTO %Q", path);
    int error = sql ? sqlite3_exec(db, sql, NULL, NULL, NULL) : SQLITE_NOMEM;

    sqlite3_free(sql);
    return error;
}

static int with(const char *path, int (*use)(sqlite3 *), zc_pool *pool, const char *save_as)
{
    sqlite3 *db;
    int error = sqlite3_open(path, &db);

    if (!error)
        error = use(db);
    if (!error)
        show(db, pool);
    if (!error && save_as)
        error = save(db, save_as);
    if (error)
        fprintf(stderr, "sqlite: %s: %s\n", path, sqlite3_errmsg(db));
    sqlite3_close(db);
    return error;
}

static int run(zc_pool *pool, const char *path)
{
    int error = sqlite3_config(SQLITE_CONFIG_PCACHE2, &methods);

    if (!error)
        error = with(":memory:", use_memory, pool, path);
    if (!error && path)
        error = with(path, use_file, pool, NULL);
    sqlite3_shutdown();
    return error;
}

int main(int argc, char **argv)
{
    struct zc_pool_config pool_config = {
        .name = "sqlite", .kind = ZC_PERSISTENT, .allocator = "zsmalloc", .codec = "lz4"};
    struct zc_heap_config heap_config = {.budget = BUDGET, .faults = ZC_HEAP_BY_SIGBUS};
    zc_store *store;
    zc_pool *pool;
    char why[400];
    int error = 1;

    if (zc_store_create(NULL, &store) != 0)
        return 1;
    if (zc_pool_create(store, &pool_config, &pool) != 0)
        goto out_store;
    if (zc_heap_create(pool, &heap_config, &the_heap, why, sizeof(why)) != 0) {
        fprintf(stderr, "sqlite: %s\n", why);
        goto out_pool;
    }
    error = run(pool, argc > 1 ? argv[1] : NULL);
    zc_heap_destroy(the_heap);
out_pool:
    zc_pool_release(pool);
out_store:
    zc_store_destroy(store);
    return error != 0;
}
