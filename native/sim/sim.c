/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/inside.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "control/control.h"
#include "store/store.h"

#define POOL "sim"
#define BEGINNING (1000 * ZC_SECOND_NS) /* of the store's clock: 0 is none */

/* ---- requests ---- */

static int ask(zc_sim *sim, const char *line, struct zc_text *answer)
{
    int error = zc_control_handle(sim->control, line, strlen(line), answer);

    return error ? error : answer->error;
}

static int64_t copy_text(struct zc_text *text, int error, char *out, size_t size)
{
    int64_t len = error ? error : (int64_t)text->len;

    if (size && !error)
        snprintf(out, size, "%s", text->data);
    zc_text_free(text);
    return len;
}

int64_t zc_sim_ask(zc_sim *sim, const char *line, char *answer, size_t size)
{
    struct zc_text text = {0};

    return copy_text(&text, ask(sim, line, &text), answer, size);
}

/* A set request that has to succeed; what is wrong goes into `why`. */
static int demand(zc_sim *sim, const char *line, char *why, size_t size)
{
    struct zc_text answer = {0};
    int error = ask(sim, line, &answer);

    if (!error && strncmp(answer.data, "OK", 2) != 0) {
        const char *message = strchr(answer.data + 4, ' ');
        snprintf(why, size, "%.*s", (int)strcspn(message + 1, "\n"), message + 1);
        error = -EINVAL;
    }
    zc_text_free(&answer);
    return error;
}

/* ---- making one ---- */

static int make_pool(zc_sim *sim, const char *create, char *why, size_t size)
{
    char line[2048];
    const char *path = strstr(create, "path=");
    int before = path ? (int)(path - create) : (int)strlen(create); /* path= has to be last */

    snprintf(line, sizeof(line), "set pools/create name=" POOL " %.*s codec=simulated:dict=%u %s",
             before, create, sim->dictionary, path ? path : "");
    int error = demand(sim, line, why, size);
    if (error)
        return error;
    snprintf(line, sizeof(line), "set pools/" POOL "/params/cold_codec simulated:2:dict=%u",
             sim->dictionary);
    error = demand(sim, line, why, size);
    return error ? error : zc_pool_find(sim->store, POOL, &sim->pool);
}

static int make_store(zc_sim *sim, const struct zc_sim_config *config, char *why, size_t size)
{
    struct zc_store_config store = {.page_size = config->page_size,
                                    .proc_dir = config->proc_dir,
                                    .cgroup_dir = config->cgroup_dir};
    struct zc_sim_link link = {0, sim};
    int error = zc_store_create(&store, &sim->store);

    if (error == -EINVAL)
        snprintf(why, size, "pages of %u bytes: this machine's are larger", config->page_size);
    if (error)
        return error;
    zc_store_set_clock(sim->store, BEGINNING);
    error = zc_dictionary_load(sim->store, &link, sizeof(link), &sim->dictionary);
    if (!error)
        error = zc_control_create(&(struct zc_mount){zc_store_nodes, sim->store}, 1, &sim->control);
    return error ? error : make_pool(sim, config->create, why, size);
}

/* No page is same-filled but the last. */
static void make_pages(zc_sim *sim)
{
    for (size_t i = 0; i < ZC_SIM_BATCH; i++)
        memset(sim->pages + (i + 1) * sim->page_size - sizeof(uint64_t), 0xff, sizeof(uint64_t));
}

int zc_sim_create(const struct zc_sim_config *config, zc_sim **out, char *why, size_t size)
{
    zc_sim *sim = calloc(1, sizeof(*sim));
    int error = -ENOMEM;

    if (!sim)
        return -ENOMEM;
    snprintf(why, size, "%s", "");
    sim->page_size = config->page_size;
    sim->due = UINT64_MAX;
    sim->now = BEGINNING;
    snprintf(sim->codec, sizeof(sim->codec), "%s", config->codec);
    snprintf(sim->cold_codec, sizeof(sim->cold_codec), "%s", config->cold_codec);
    memcpy(sim->gain, config->gain, sizeof(sim->gain));
    sim->pages = calloc(2 * ZC_SIM_BATCH + 1, sim->page_size);
    if (sim->pages) {
        make_pages(sim);
        error = make_store(sim, config, why, size);
    }
    if (error) {
        zc_sim_destroy(sim);
        return error;
    }
    *out = sim;
    return 0;
}

void zc_sim_destroy(zc_sim *sim)
{
    if (sim->pool)
        zc_pool_release(sim->pool);
    zc_control_destroy(sim->control);
    if (sim->store)
        zc_store_destroy(sim->store);
    free(sim->pages);
    free(sim);
}

/* ---- time ---- */

static void note_memory(zc_sim *sim, uint64_t time_us)
{
    uint64_t used = zc_store_used(sim->store);

    sim->counts.peak_bytes = zc_max64(sim->counts.peak_bytes, used);
    sim->counts.kib_ms += used / 1024 * ((time_us - sim->last_us) / 1000);
    if (time_us - sim->last_us >= 1000)
        sim->last_us = time_us;
    while (sim->point < sim->point_count && sim->points[sim->point].time_us <= time_us) {
        struct zc_pool_stats stats;
        zc_pool_get_stats(sim->pool, &stats);
        sim->points[sim->point].used_bytes = used;
        sim->points[sim->point++].written_bytes =
            stats.wear_evicted + stats.wear_cleaned + stats.wear_metadata;
    }
}

/* Until then the store does what it has to do by itself. */
static void go_on_to(zc_sim *sim, uint64_t time_us)
{
    uint64_t then = BEGINNING + time_us * 1000, now = sim->now;

    while (sim->due <= then) {
        now = zc_max64(now, sim->due);
        zc_store_set_clock(sim->store, now);
        sim->due = zc_store_turn(sim->store);
        note_memory(sim, (now - BEGINNING) / 1000);
    }
    sim->now = then;
    zc_store_set_clock(sim->store, then);
}

/* ---- operations ---- */

struct group {
    size_t first, count;
    struct zc_key keys[ZC_SIM_BATCH];
    void *pages[ZC_SIM_BATCH];
    int32_t results[ZC_SIM_BATCH];
};

static void put(zc_sim *sim, struct group *group)
{
    const struct zc_sim_stream *stream = sim->stream;
    uint8_t flags = stream->flags[group->first];

    if (flags & ZC_SIM_SHORT) {
        zc_flush_page_batch(sim->pool, group->keys, group->count, group->results);
        for (size_t i = 0; i < group->count; i++)
            sim->counts.short_found += group->results[i] == 0;
        sim->counts.short_puts += group->count;
        return;
    }
    for (size_t i = 0; i < group->count; i++) {
        uint32_t number = (uint32_t)(group->first + i + 1);
        bool is_fill = stream->sizes[group->first + i] == 0;
        group->pages[i] = sim->pages + (is_fill ? ZC_SIM_BATCH : i) * sim->page_size;
        if (!is_fill)
            memcpy(group->pages[i], &number, sizeof(number));
    }
    zc_put_batch(sim->pool, group->keys, (const void *const *)group->pages, group->count,
                 flags & ZC_EVENT_INACTIVE ? ZC_PUT_INACTIVE : 0, group->results, NULL);
}

static void get(zc_sim *sim, struct group *group)
{
    unsigned flags = sim->stream->flags[group->first] & ZC_EVENT_PEEK ? ZC_GET_PEEK : 0;

    for (size_t i = 0; i < group->count; i++)
        group->pages[i] = sim->pages + (ZC_SIM_BATCH + 1 + i) * sim->page_size;
    zc_get_batch(sim->pool, group->keys, group->pages, group->count, flags, group->results);
}

static int run_group(zc_sim *sim, struct group *group)
{
    switch (sim->stream->kinds[group->first]) {
    case ZC_EVENT_PUT:
        put(sim, group);
        return 0;
    case ZC_EVENT_GET:
        get(sim, group);
        return 0;
    case ZC_EVENT_FLUSH:
        return zc_flush_page_batch(sim->pool, group->keys, group->count, group->results);
    case ZC_EVENT_FLUSH_OBJECT:
        for (size_t i = 0; i < group->count; i++)
            zc_flush_object(sim->pool, group->keys[i].object);
        return 0;
    default:
        return -EINVAL;
    }
}

/* Operations of one kind that were one batch, from `first` on; `end`: of none of them. */
static void gather(const struct zc_sim_stream *stream, size_t first, size_t end,
                   struct group *group)
{
    group->first = first;
    group->count = 0;
    for (size_t i = first; i < end && group->count < ZC_SIM_BATCH; i++) {
        if (stream->times[i] != stream->times[first] || stream->kinds[i] != stream->kinds[first] ||
            stream->flags[i] != stream->flags[first])
            return;
        group->keys[group->count++] =
            (struct zc_key){.object = stream->objects[i], .index = stream->indexes[i]};
    }
}

static int run_some(zc_sim *sim, size_t first, size_t end)
{
    struct group group;
    int error = 0;

    for (size_t i = first; !error && i < end; i += group.count) {
        gather(sim->stream, i, end, &group);
        go_on_to(sim, sim->stream->times[i]);
        error = run_group(sim, &group);
        sim->due = zc_store_turn(sim->store);
        note_memory(sim, sim->stream->times[i]);
    }
    return error;
}

int zc_sim_run(zc_sim *sim, const struct zc_sim_stream *stream, char *begin, size_t begin_size,
               struct zc_sim_point *points, size_t point_count, struct zc_sim_counts *out)
{
    if (stream->held > stream->count || stream->count >= UINT32_MAX)
        return -EINVAL;
    sim->stream = stream;
    int error = run_some(sim, 0, stream->held);
    if (error)
        return error;
    if (stream->held < stream->count)
        go_on_to(sim, stream->times[stream->held]);
    int64_t len = zc_sim_ask(sim, "dump pools/" POOL "/stats", begin, begin_size);
    if (len < 0)
        return (int)len;

    memset(&sim->counts, 0, sizeof(sim->counts));
    sim->last_us = stream->held < stream->count ? stream->times[stream->held] : 0;
    sim->points = points;
    sim->point_count = point_count;
    error = run_some(sim, stream->held, stream->count);
    *out = sim->counts;
    return error;
}
