/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Simulates streams made by chance, of puts, gets and flushes, against pools of all kinds: zc_sim SEED DIR, where DIR
 * has proc/meminfo and an empty cgroup/. Whatever the settings, all that is held is sound in the end, each put is
 * stored or refused, and time goes on.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "check.h"
#include "sim/sim.h"
#include "store/store.h"

#define COUNT 20000u
#define HELD 500u
#define PAGE_SIZE 4096u

static uint64_t random_state;

static uint64_t draw(uint64_t below)
{
    return zc_mix64(++random_state) % below;
}

struct columns {
    uint64_t times[COUNT], objects[COUNT];
    uint32_t indexes[COUNT], sizes[COUNT], colds[COUNT];
    uint8_t kinds[COUNT], flags[COUNT];
};

static uint8_t kind_of(size_t i)
{
    static const uint8_t kinds[] = {ZC_EVENT_PUT, ZC_EVENT_PUT, ZC_EVENT_GET, ZC_EVENT_GET,
                                    ZC_EVENT_FLUSH};

    if (i < HELD)
        return ZC_EVENT_PUT;
    return draw(500) ? kinds[draw(5)] : ZC_EVENT_FLUSH_OBJECT;
}

/* Runs of up to 16, as batches are; now and then nothing happens for a while. */
static void make_stream(struct columns *columns)
{
    uint64_t now = 0;

    for (size_t i = 0; i < COUNT;) {
        uint8_t kind = kind_of(i), flags = draw(50) ? 0 : ZC_EVENT_PEEK;
        uint64_t object = draw(20), end = zc_min64(COUNT, i + 1 + draw(16));
        uint32_t index = (uint32_t)draw(200);
        if (i < HELD && end > HELD)
            end = HELD;
        now += draw(100) ? draw(2000) : draw(5000000);
        if (kind == ZC_EVENT_PUT && !draw(200))
            flags |= ZC_SIM_SHORT;
        for (; i < end; i++, index++) {
            columns->times[i] = now;
            columns->objects[i] = object;
            columns->indexes[i] = index;
            columns->kinds[i] = kind;
            columns->flags[i] = flags;
            columns->sizes[i] = draw(10) ? 1 + (uint32_t)draw(PAGE_SIZE + 20) : 0;
            columns->colds[i] = columns->sizes[i] * 3 / 4;
        }
    }
}

/* One line of an answer to `dump`. */
static uint64_t counter(const char *dump, const char *name)
{
    char wanted[64];

    snprintf(wanted, sizeof(wanted), "/%s=", name);
    const char *at = strstr(dump, wanted);
    CHECK(at);
    return strtoull(at + strlen(wanted), NULL, 10);
}

static uint64_t refusals(const char *dump)
{
    uint64_t sum = 0;

    for (int i = 1; i < ZC_REFUSALS; i++)
        sum += counter(dump, zc_refusal_name(i));
    return sum;
}

static void demand(zc_sim *sim, const char *line)
{
    char answer[256];

    CHECK(zc_sim_ask(sim, line, answer, sizeof(answer)) > 0);
    CHECK(strncmp(answer, "OK", 2) == 0);
}

static void simulate(const struct columns *columns, const char *dir, const char *create,
                     const char *const *settings)
{
    static char begin[65536], end[65536];
    char proc[1024], cgroup[1024], with[2048], why[400];
    struct zc_sim_point points[20];
    struct zc_sim_counts counts;
    zc_sim *sim;

    snprintf(proc, sizeof(proc), "%s/proc", dir);
    snprintf(cgroup, sizeof(cgroup), "%s/cgroup", dir);
    snprintf(with, sizeof(with), create, dir);
    struct zc_sim_config config = {.page_size = PAGE_SIZE,
                                   .proc_dir = proc,
                                   .cgroup_dir = cgroup,
                                   .create = with,
                                   .codec = "lz4",
                                   .cold_codec = "zstd:9",
                                   .gain = {1000000, 900000, 800000, 700000, 600000}};
    struct zc_sim_stream stream = {
        COUNT,          HELD,           columns->times, columns->objects, columns->indexes,
        columns->sizes, columns->colds, columns->kinds, columns->flags};
    CHECK(zc_sim_create(&config, &sim, why, sizeof(why)) == 0);
    for (; *settings; settings++)
        demand(sim, *settings);
    for (size_t i = 0; i < 20; i++)
        points[i] = (struct zc_sim_point){.time_us = columns->times[COUNT - 1] * i / 19};

    CHECK(zc_sim_run(sim, &stream, begin, sizeof(begin), points, 20, &counts) == 0);
    CHECK(zc_sim_ask(sim, "get check", end, sizeof(end)) > 0);
    CHECK(strcmp(end, "OK 3\nok\n") == 0);
    CHECK(zc_sim_ask(sim, "dump pools/sim/stats", end, sizeof(end)) > 0);
    CHECK(counter(end, "puts") == counter(end, "stored_puts") + refusals(end));
    CHECK(counter(begin, "puts") == HELD);
    CHECK(counter(end, "damaged") == 0 && counter(end, "read_errors") == 0);
    CHECK(counts.short_puts > 0 && counts.peak_bytes > 0);
    CHECK(points[19].used_bytes > 0);
    zc_sim_destroy(sim);
}

static void refuse(const char *dir)
{
    char proc[1024], why[400];
    zc_sim *sim;

    snprintf(proc, sizeof(proc), "%s/proc", dir);
    struct zc_sim_config config = {.page_size = PAGE_SIZE,
                                   .proc_dir = proc,
                                   .cgroup_dir = proc,
                                   .create = "kind=persistent allocator=slab",
                                   .codec = "lz4",
                                   .cold_codec = "zstd:9"};
    CHECK(zc_sim_create(&config, &sim, why, sizeof(why)) == -EINVAL);
    CHECK(strstr(why, "slab"));
    config.create = "kind=persistent";
    config.codec = "lz5";
    CHECK(zc_sim_create(&config, &sim, why, sizeof(why)) == -EINVAL);
    config.codec = "lz4";
    config.page_size = 100;
    CHECK(zc_sim_create(&config, &sim, why, sizeof(why)) == -EINVAL);
    CHECK(strstr(why, "100 bytes"));
}

int main(int argc, char **argv)
{
    static struct columns columns;
    static const struct {
        const char *create;
        const char *settings[6];
    } cases[] = {
        {"kind=persistent allocator=zbud", {NULL}},
        {"kind=persistent allocator=zsmalloc",
         {"set params/limit 4M", "set pools/sim/params/keep_rejected 1", NULL}},
        {"kind=ephemeral allocator=zbud", {"set params/limit 2M", NULL}},
        {"kind=persistent allocator=zsmalloc",
         {"set pools/sim/params/cold_after 5", "set pools/sim/params/cold_cpu_percent 100",
          "set pools/sim/params/cold_readahead 1", NULL}},
        {"kind=persistent allocator=zbud path=%s/backing size=64M reset=1",
         {"set params/limit 2M", "set pools/sim/params/writeback_after 20",
          "set pools/sim/params/cold_after 5", "set pools/sim/params/cold_cpu_percent 100", NULL}},
    };

    CHECK(argc == 3);
    random_state = strtoull(argv[1], NULL, 10);
    make_stream(&columns);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        simulate(&columns, argv[2], cases[i].create, cases[i].settings);
    refuse(argv[2]);
    return 0;
}
