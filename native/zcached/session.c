/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "store/store.h"

#ifndef F_GET_SEALS
#define F_GET_SEALS 1034
#define F_SEAL_SHRINK 2
#define F_SEAL_GROW 4
#endif

#define GROUP 16u                  /* pages */
#define SCRATCH_BYTES (64u * 1024) /* at least a page */

_Static_assert(sizeof(struct zc_request) == 48 && sizeof(struct zc_answer) == 40, "wire format");
_Static_assert(sizeof(struct zc_wire_key) == 16 && sizeof(struct zc_result) == 8, "wire format");
_Static_assert(sizeof(struct zc_hello) == 48 && sizeof(struct zc_wire_pool) == 8, "wire format");
_Static_assert(sizeof(struct zc_wire_dictionary) == 8, "wire format");
_Static_assert(sizeof(struct zc_wire_record) == 8 && sizeof(struct zc_wire_recording) == 8,
               "wire format");
_Static_assert(sizeof(struct zc_wire_recorded) == 16, "wire format");
_Static_assert(sizeof(struct zc_event) == ZC_EVENT_BYTES, "wire format");

/* A batch request taken apart: where in the payload its arrays are. */
struct batch {
    const struct zc_request *request;
    const char *keys, *offsets, *pages; /* NULL: not in this request */
};

void zc_session_init(struct zc_session *session, struct zc_data_server *server, int fd)
{
    *session = (struct zc_session){
        .server = server,
        .passed_fd = -1,
        .page_size = zc_store_page_size(server->store),
    };
    zc_wire_init(&session->wire, fd);
}

static void drop_segment(struct zc_session *session)
{
    if (session->segment)
        munmap(session->segment, session->segment_size);
    session->segment = NULL;
    session->segment_size = 0;
}

static void drop_pool(struct zc_session *session)
{
    if (session->pool)
        zc_pool_release(session->pool);
    session->pool = NULL;
}

void zc_session_drop_passed(struct zc_session *session)
{
    if (session->passed_fd >= 0)
        close(session->passed_fd);
    session->passed_fd = -1;
}

void zc_session_free_buffers(struct zc_session *session)
{
    free(session->in);
    free(session->out);
    session->in = session->out = NULL;
    session->in_size = session->out_size = 0;
}

static void stop_recording(struct zc_session *session)
{
    if (!session->recorded)
        return;
    zc_record_stop(session->recorded);
    zc_pool_release(session->recorded);
    session->recorded = NULL;
}

void zc_session_fini(struct zc_session *session)
{
    stop_recording(session);
    drop_pool(session);
    drop_segment(session);
    zc_session_drop_passed(session);
    zc_session_free_buffers(session);
    free(session->scratch);
}

int zc_session_fail(struct zc_session *session, int error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(session->why, sizeof(session->why), format, args);
    va_end(args);
    return error;
}

size_t zc_session_answer_bytes(const struct zc_session *session, const struct zc_request *request)
{
    size_t count = zc_min(request->count, ZC_MAX_BATCH);
    size_t bytes = count * sizeof(struct zc_result);

    if (request->op == ZC_OP_GET && !(request->flags & ZC_F_SEGMENT))
        bytes += zc_min(count * session->page_size, ZC_MAX_PAYLOAD);
    if (request->op == ZC_OP_RECORD)
        bytes = sizeof(struct zc_wire_recorded) + ZC_MAX_EVENTS * ZC_EVENT_BYTES;
    return zc_max(bytes, sizeof(struct zc_hello));
}

static int grow(char **buffer, size_t *size, size_t needed)
{
    if (*size >= needed)
        return 0;

    char *larger = malloc(needed);
    if (!larger)
        return -ENOMEM;
    free(*buffer);
    *buffer = larger;
    *size = needed;
    return 0;
}

int zc_session_buffers(struct zc_session *session, size_t in, size_t out)
{
    int error = grow(&session->in, &session->in_size, in);

    return error ? error : grow(&session->out, &session->out_size, out);
}

/* ---- what a batch consists of ---- */

static struct zc_wire_key key_at(const struct batch *batch, size_t i)
{
    struct zc_wire_key key = {
        .object = batch->request->object,
        .index = batch->request->index + (uint32_t)i,
        .pool = batch->request->pool,
    };

    if (batch->keys)
        memcpy(&key, batch->keys + i * sizeof(key), sizeof(key));
    return key;
}

static uint64_t offset_at(const struct batch *batch, size_t i)
{
    uint64_t offset;

    memcpy(&offset, batch->offsets + i * sizeof(offset), sizeof(offset));
    return offset;
}

static int check_offsets(struct zc_session *session, const struct batch *batch)
{
    if (!session->segment)
        return zc_session_fail(session, -EINVAL, "no segment was passed on this connection");
    for (size_t i = 0; i < batch->request->count; i++) {
        uint64_t offset = offset_at(batch, i);
        if (offset > session->segment_size || session->segment_size - offset < session->page_size)
            return zc_session_fail(
                session, -EINVAL, "offset %llu: no page of %zu bytes there in a segment of %zu",
                (unsigned long long)offset, session->page_size, session->segment_size);
    }
    return 0;
}

/* Which flags an operation knows. */
static uint32_t flags_of(uint16_t op)
{
    if (op == ZC_OP_PUT)
        return ZC_F_KEYS | ZC_F_SEGMENT | ZC_F_INACTIVE;
    if (op == ZC_OP_GET)
        return ZC_F_KEYS | ZC_F_SEGMENT | ZC_F_PEEK;
    return ZC_F_KEYS;
}

static int take_apart(struct zc_session *session, const struct zc_request *request,
                      struct batch *batch)
{
    const char *at = session->in;
    bool paged = request->op == ZC_OP_PUT || request->op == ZC_OP_GET;
    size_t count = request->count, expected = 0;

    *batch = (struct batch){.request = request};
    if (count < 1 || count > ZC_MAX_BATCH)
        return zc_session_fail(session, -EINVAL, "count %zu: 1 to %u", count, ZC_MAX_BATCH);
    if (request->flags & ~flags_of(request->op))
        return zc_session_fail(session, -EINVAL, "flags 0x%x: op %u knows 0x%x", request->flags,
                               request->op, flags_of(request->op));
    if (!(request->flags & ZC_F_KEYS)) {
        bool single = request->op == ZC_OP_FLUSH_OBJECT || request->op == ZC_OP_DESTROY_POOL;
        if (single && count != 1)
            return zc_session_fail(session, -EINVAL, "count %zu: 1 where no keys are given", count);
        if (request->index > UINT32_MAX - (count - 1))
            return zc_session_fail(session, -EINVAL, "index %u + %zu is over %u", request->index,
                                   count - 1, UINT32_MAX);
    } else {
        batch->keys = at;
        expected += count * sizeof(struct zc_wire_key);
    }
    if (request->flags & ZC_F_SEGMENT) {
        batch->offsets = at + expected;
        expected += count * sizeof(uint64_t);
    } else if (request->op == ZC_OP_PUT) {
        batch->pages = at + expected;
        expected += count * session->page_size;
    }
    if (request->payload != expected)
        return zc_session_fail(session, -EINVAL, "payload %u: %zu are needed", request->payload,
                               expected);
    if (paged && !batch->offsets &&
        count * (session->page_size + sizeof(struct zc_result)) > ZC_MAX_PAYLOAD)
        return zc_session_fail(session, -E2BIG, "count %zu: the pages are over %u bytes", count,
                               ZC_MAX_PAYLOAD);
    return batch->offsets ? check_offsets(session, batch) : 0;
}

/* ---- operations ---- */

/* The key's pool; a batch mostly has one. NULL: no such pool. */
static zc_pool *pool_of(struct zc_session *session, const struct zc_wire_key *key)
{
    if (session->pool && zc_pool_id(session->pool) == key->pool)
        return session->pool;
    drop_pool(session);
    return zc_pool_by_id(session->server->store, key->pool, &session->pool) == 0 ? session->pool
                                                                                 : NULL;
}

/* Keys of one pool that follow one another, at most GROUP, whose pages are put or got together. */
struct group {
    zc_pool *pool; /* NULL: no such pool */
    size_t count;
    struct zc_key keys[GROUP];
    void *pages[GROUP];
    int32_t results[GROUP];
    uint32_t zsizes[GROUP];
};

static size_t group_max(const struct zc_session *session)
{
    return zc_max(1, zc_min(GROUP, SCRATCH_BYTES / session->page_size));
}

static void gather(struct zc_session *session, const struct batch *batch, size_t first,
                   struct group *group)
{
    size_t most = zc_min(group_max(session), batch->request->count - first);
    struct zc_wire_key key = key_at(batch, first);
    uint32_t pool = key.pool;

    group->pool = pool_of(session, &key);
    group->count = 0;
    while (group->count < most) {
        key = key_at(batch, first + group->count);
        if (key.pool != pool)
            return;
        group->results[group->count] = -ENOENT;
        group->zsizes[group->count] = 0;
        group->keys[group->count++] = (struct zc_key){.object = key.object, .index = key.index};
    }
}

/* Pages out of the segment are copied first: its owner may change them at any moment, and they are
 * looked at more than once. */
static void put_group(struct zc_session *session, const struct batch *batch, size_t first,
                      struct group *group)
{
    unsigned flags = batch->request->flags & ZC_F_INACTIVE ? ZC_PUT_INACTIVE : 0;

    for (size_t i = 0; i < group->count; i++) {
        if (batch->pages) {
            group->pages[i] = (char *)batch->pages + (first + i) * session->page_size;
            continue;
        }
        group->pages[i] = session->scratch + i * session->page_size;
        memcpy(group->pages[i], session->segment + offset_at(batch, first + i), session->page_size);
    }
    int error = zc_put_batch(group->pool, group->keys, (const void *const *)group->pages,
                             group->count, flags, group->results, group->zsizes);
    for (size_t i = 0; error == -ENOMEM && i < group->count; i++)
        group->results[i] = error;
}

/* Into the segment, or one behind the other to *next, which moves on. */
static void get_group(struct zc_session *session, const struct batch *batch, size_t first,
                      struct group *group, char **next)
{
    unsigned flags = batch->request->flags & ZC_F_PEEK ? ZC_GET_PEEK : 0;

    for (size_t i = 0; i < group->count; i++)
        group->pages[i] = batch->offsets ? session->segment + offset_at(batch, first + i)
                                         : *next + i * session->page_size;
    zc_get_batch(group->pool, group->keys, group->pages, group->count, flags, group->results);
    for (size_t i = 0; !batch->offsets && i < group->count; i++) {
        if (group->results[i] != 0)
            continue;
        if (*next != group->pages[i])
            memcpy(*next, group->pages[i], session->page_size);
        *next += session->page_size;
    }
}

/* Returns where the answer's payload ends. */
static char *move_pages(struct zc_session *session, const struct batch *batch)
{
    size_t count = batch->request->count;
    char *next = session->out + count * sizeof(struct zc_result);
    struct group group;

    for (size_t first = 0; first < count; first += group.count) {
        gather(session, batch, first, &group);
        if (group.pool && batch->request->op == ZC_OP_PUT)
            put_group(session, batch, first, &group);
        else if (group.pool)
            get_group(session, batch, first, &group, &next);
        for (size_t i = 0; i < group.count; i++) {
            struct zc_result result = {.status = group.results[i], .detail = group.zsizes[i]};
            memcpy(session->out + (first + i) * sizeof(result), &result, sizeof(result));
        }
    }
    return next;
}

static struct zc_result forget_one(struct zc_session *session, const struct batch *batch, size_t i)
{
    struct zc_result result = {.status = -ENOENT};
    struct zc_wire_key key = key_at(batch, i);
    zc_pool *pool = pool_of(session, &key);
    int64_t count = -ENOENT;

    if (!pool)
        return result;
    if (batch->request->op == ZC_OP_FLUSH_PAGE) {
        result.status = zc_flush_page(pool, key.object, key.index);
        return result;
    }
    count = batch->request->op == ZC_OP_FLUSH_OBJECT ? zc_flush_object(pool, key.object)
                                                     : zc_pool_destroy(pool);
    result.status = count < 0 ? (int32_t)count : 0;
    result.detail = count < 0 ? 0 : (uint32_t)zc_min((size_t)count, UINT32_MAX);
    return result;
}

static int run_batch(struct zc_session *session, const struct zc_request *request,
                     struct zc_answer *answer)
{
    struct batch batch;
    int error = take_apart(session, request, &batch);
    if (error)
        return error;
    if (!session->scratch && batch.offsets &&
        !(session->scratch = malloc(group_max(session) * session->page_size)))
        return zc_session_fail(session, -ENOMEM, "out of memory");

    char *end = session->out + request->count * sizeof(struct zc_result);
    if (request->op == ZC_OP_PUT || request->op == ZC_OP_GET) {
        end = move_pages(session, &batch);
    } else {
        for (size_t i = 0; i < request->count; i++) {
            struct zc_result result = forget_one(session, &batch, i);
            memcpy(session->out + i * sizeof(result), &result, sizeof(result));
        }
    }
    drop_pool(session);
    answer->count = request->count;
    answer->payload = (uint32_t)(end - session->out);
    return 0;
}

static int run_hello(struct zc_session *session, struct zc_answer *answer)
{
    struct zc_hello hello = {
        .abi = ZC_ABI,
        .page_size = (uint32_t)session->page_size,
        .max_batch = ZC_MAX_BATCH,
        .max_payload = ZC_MAX_PAYLOAD,
    };

    snprintf(hello.version, sizeof(hello.version), "%s", zc_version());
    memcpy(session->out, &hello, sizeof(hello));
    answer->payload = sizeof(hello);
    return 0;
}

static int run_pool(struct zc_session *session, const struct zc_request *request,
                    struct zc_answer *answer)
{
    char name[ZC_POOL_NAME_MAX + 1];
    zc_pool *pool;

    if (request->payload == 0 || request->payload > ZC_POOL_NAME_MAX)
        return zc_session_fail(session, -EINVAL, "a pool's name has 1 to %d bytes, not %u",
                               ZC_POOL_NAME_MAX, request->payload);
    memcpy(name, session->in, request->payload);
    name[request->payload] = '\0';
    if (zc_pool_find(session->server->store, name, &pool) != 0)
        return zc_session_fail(session, -ENOENT, "no such pool");

    struct zc_wire_pool found = {.pool = zc_pool_id(pool), .kind = zc_pool_get_kind(pool)};
    zc_pool_release(pool);
    memcpy(session->out, &found, sizeof(found));
    answer->payload = sizeof(found);
    return 0;
}

static int run_segment(struct zc_session *session, const struct zc_request *request)
{
    struct stat st;
    int fd = session->passed_fd;

    if (fd < 0)
        return zc_session_fail(session, -EBADF, "no descriptor came with the request");
    if (request->object < session->page_size || request->object > ZC_MAX_SEGMENT)
        return zc_session_fail(session, -EINVAL, "segment of %llu bytes: %zu to %u",
                               (unsigned long long)request->object, session->page_size,
                               ZC_MAX_SEGMENT);
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
        return zc_session_fail(session, -EPERM,
                               "the segment must be a memfd sealed against shrinking and growing");
    if (fstat(fd, &st) != 0 || (uint64_t)st.st_size < request->object)
        return zc_session_fail(session, -EINVAL, "the descriptor has fewer than %llu bytes",
                               (unsigned long long)request->object);

    void *segment = mmap(NULL, (size_t)request->object, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (segment == MAP_FAILED)
        return zc_session_fail(session, -errno, "cannot map the segment: %s", strerror(errno));
    drop_segment(session);
    session->segment = segment;
    session->segment_size = (size_t)request->object;
    return 0;
}

static int run_dictionary(struct zc_session *session, const struct zc_request *request,
                          struct zc_answer *answer)
{
    struct zc_wire_dictionary loaded = {0};
    uint32_t size = request->payload;

    if (size == 0 || size > ZC_MAX_DICTIONARY)
        return zc_session_fail(session, -EINVAL, "a dictionary has 1 to %u bytes, not %u",
                               ZC_MAX_DICTIONARY, size);
    int error = zc_dictionary_load(session->server->store, session->in, size, &loaded.id);
    if (error == -EINVAL)
        return zc_session_fail(
            session, error, "%u bytes with the magic of zstd's dictionaries, which are none", size);
    if (error)
        return zc_session_fail(session, error, "no memory for a dictionary of %u bytes", size);

    memcpy(session->out, &loaded, sizeof(loaded));
    answer->payload = sizeof(loaded);
    return 0;
}

/* ---- recording ---- */

/* "SPEC" or "SPEC*PAGES", in place. */
static int parse_try(struct zc_session *session, char *text, struct zc_record_try *out)
{
    char *star = strchr(text, '*'), *end = NULL;

    *out = (struct zc_record_try){.codec = text, .pages = 1};
    if (!star)
        return 0;
    *star = '\0';
    out->pages = star[1] >= '1' && star[1] <= '9' ? (unsigned)strtoul(star + 1, &end, 10) : 0;
    if (out->pages && !*end)
        return 0;
    return zc_session_fail(session, -EINVAL, "record: '%.32s' is no number of pages", star + 1);
}

/* The text behind zc_wire_record; *pool is its first part. */
static int parse_record(struct zc_session *session, size_t size, const char **pool,
                        struct zc_record_config *config)
{
    struct zc_wire_record record;
    char *at = session->in + sizeof(record), *end = session->in + size, *next;

    if (size <= sizeof(record) || end[-1] != '\0')
        return zc_session_fail(session, -EINVAL, "record: a pool's name, ended by NUL, is needed");
    memcpy(&record, session->in, sizeof(record));
    if (record.reserved != 0 || record.every == 0)
        return zc_session_fail(session, -EINVAL, "record: every %u, reserved %u: 1 or more, and 0",
                               record.every, record.reserved);
    *config = (struct zc_record_config){.every = record.every};
    *pool = at;
    for (at += strlen(at) + 1; at < end; at = next) {
        next = at + strlen(at) + 1;
        if (config->count == ZC_RECORD_TRIES)
            return zc_session_fail(session, -E2BIG, "record: more than %u codecs", ZC_RECORD_TRIES);
        int error = parse_try(session, at, &config->tries[config->count++]);
        if (error)
            return error;
    }
    return 0;
}

static int start_recording(struct zc_session *session, const struct zc_request *request,
                           struct zc_answer *answer)
{
    struct zc_wire_recording recording = {ZC_EVENT_BYTES, ZC_RECORD_EVENTS};
    struct zc_record_config config;
    struct zc_text why = {0};
    const char *name = NULL;
    zc_pool *pool;

    int error = parse_record(session, request->payload, &name, &config);
    if (error)
        return error;
    if (session->recorded)
        return zc_session_fail(session, -EBUSY, "this connection records a pool already");
    if (zc_pool_find(session->server->store, name, &pool) != 0)
        return zc_session_fail(session, -ENOENT, "no such pool");
    error = zc_record_start(pool, &config, &why);
    if (error) {
        zc_session_fail(session, error, "%s",
                        why.len           ? why.data
                        : error == -EBUSY ? "the pool is being recorded already"
                                          : strerror(-error));
        zc_pool_release(pool);
    } else {
        session->recorded = pool;
        memcpy(session->out, &recording, sizeof(recording));
        answer->payload = sizeof(recording);
    }
    zc_text_free(&why);
    return error;
}

static int run_record(struct zc_session *session, const struct zc_request *request,
                      struct zc_answer *answer)
{
    struct zc_wire_recorded recorded;
    struct zc_recorded got;

    if (request->payload)
        return start_recording(session, request, answer);
    if (!session->recorded)
        return zc_session_fail(session, -ENXIO, "this connection records no pool");
    int error = zc_record_take(session->recorded, (void *)(session->out + sizeof(recorded)),
                               ZC_MAX_EVENTS, session->server->record_wait_ms, &got);
    if (error == -ENOENT)
        return zc_session_fail(session, error, "the pool was destroyed");
    if (error)
        return zc_session_fail(session, error, "out of memory");
    recorded = (struct zc_wire_recorded){got.time_us, got.lost};
    memcpy(session->out, &recorded, sizeof(recorded));
    answer->count = (uint32_t)got.count;
    answer->payload = (uint32_t)(sizeof(recorded) + got.count * ZC_EVENT_BYTES);
    return 0;
}

int zc_session_run(struct zc_session *session, const struct zc_request *request,
                   struct zc_answer *answer)
{
    uint64_t start = zc_now_ns();
    int error;

    session->why[0] = '\0';
    bool batched = request->op >= ZC_OP_PUT && request->op <= ZC_OP_DESTROY_POOL;
    if (request->reserved != 0)
        return zc_session_fail(session, -EINVAL, "reserved is %u, not 0", request->reserved);
    if (!batched && (request->count != 0 || request->flags != 0))
        return zc_session_fail(session, -EINVAL, "op %u takes no count and no flags", request->op);
    if (request->payload != 0 && (request->op == ZC_OP_HELLO || request->op == ZC_OP_SEGMENT))
        return zc_session_fail(session, -EINVAL, "op %u takes no payload", request->op);

    if (request->op == ZC_OP_HELLO)
        error = run_hello(session, answer);
    else if (request->op == ZC_OP_POOL)
        error = run_pool(session, request, answer);
    else if (request->op == ZC_OP_SEGMENT)
        error = run_segment(session, request);
    else if (request->op == ZC_OP_DICTIONARY)
        error = run_dictionary(session, request, answer);
    else if (request->op == ZC_OP_RECORD)
        error = run_record(session, request, answer);
    else if (batched)
        error = run_batch(session, request, answer);
    else
        error = zc_session_fail(session, -ENOSYS, "op %u is unknown", request->op);
    answer->time_ns = zc_now_ns() - start;
    return error;
}
