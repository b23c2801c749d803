/* SPDX-License-Identifier: Apache-2.0 */
#include "store/keeper.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/base.h"
#include "base/thread.h"
#include "store/limit.h"
#include "store/pool.h"
#include "store/store.h"

#define LOOK_NS UINT64_C(1000000000) /* between looks at meminfo */
#define MS_NS UINT64_C(1000000)
#define SETTLE_US 100u
#define STACK_BYTES (128u * 1024)

/* ---- chores ---- */

static const struct {
    enum zc_param after; /* seconds; 0: never */
    uint64_t (*run)(zc_pool *pool);
} chores[ZC_CHORES] = {
    [ZC_CHORE_WRITE_IDLE] = {ZC_PARAM_WRITEBACK_AFTER, zc_writeback_idle},
    [ZC_CHORE_RECOMPRESS] = {ZC_PARAM_COLD_AFTER, zc_cold_idle},
};

/* Returns when it is due then. Who plans it meanwhile is not overheard. */
static uint64_t run_chore(zc_pool *pool, enum zc_chore which)
{
    _Atomic uint64_t *due = &pool->chores[which];

    if (*due > zc_store_ns(pool->store))
        return *due;
    *due = UINT64_MAX;
    uint64_t next = chores[which].run(pool), planned = *due;
    while (next < planned && !atomic_compare_exchange_weak(due, &planned, next))
        ;
    return *due;
}

/* Does what is due. Returns when something is next. */
static uint64_t run_chores(zc_store *store)
{
    uint64_t next = UINT64_MAX;
    uint32_t id = 0;
    zc_pool *pool;

    while (!store->keeper.stopping && (pool = zc_pool_next(store, id))) {
        id = pool->id;
        for (unsigned i = 0; i < ZC_CHORES; i++)
            next = zc_min64(next, run_chore(pool, i));
        zc_pool_release(pool);
    }
    return next;
}

void zc_keeper_reconsider(zc_pool *pool)
{
    for (unsigned i = 0; i < ZC_CHORES; i++)
        pool->chores[i] = 0;
    zc_keeper_wake(pool->store);
}

void zc_keeper_after_puts(zc_pool *pool)
{
    for (unsigned i = 0; i < ZC_CHORES; i++) {
        uint64_t after = zc_param(pool, chores[i].after);
        if (ZC_LIKELY(after == 0) ||
            atomic_load_explicit(&pool->chores[i], memory_order_relaxed) != UINT64_MAX)
            continue;
        pool->chores[i] = zc_store_ns(pool->store) + after * ZC_SECOND_NS;
        zc_keeper_wake(pool->store);
    }
}

/* ---- the thread ---- */

static int ms_until(uint64_t when, uint64_t now)
{
    if (when <= now)
        return 0;
    return when - now < INT_MAX * MS_NS ? (int)((when - now) / MS_NS + 1) : INT_MAX;
}

/* As poll() takes it: milliseconds until there is something to do; -1: it will be woken. */
static int sleep_for(zc_store *store)
{
    const struct zc_keeper *keeper = &store->keeper;
    bool looks = keeper->source == ZC_PRESSURE_MEMINFO && zc_limit_has_givers(store);
    int look_in = looks ? ms_until(keeper->next_look, zc_now_ns()) : INT_MAX;
    int due_in = keeper->due == UINT64_MAX ? INT_MAX : ms_until(keeper->due, zc_store_ns(store));
    int first = look_in < due_in ? look_in : due_in;

    return first == INT_MAX ? -1 : first;
}

static bool meminfo_is_low(zc_store *store)
{
    struct zc_keeper *keeper = &store->keeper;
    struct zc_frames_stats frames;

    if (keeper->source != ZC_PRESSURE_MEMINFO || zc_now_ns() < keeper->next_look)
        return false;
    keeper->next_look = zc_now_ns() + LOOK_NS;
    zc_frames_get_stats(store->frames, &frames);
    return zc_memory_low(&store->memory, frames.taken * store->page_size);
}

/* Sleeps until there is something to do. Is memory short? */
static bool wait_for_work(zc_store *store)
{
    struct zc_keeper *keeper = &store->keeper;
    struct pollfd on[2] = {
        {.fd = keeper->event, .events = POLLIN},
        {.fd = keeper->source == ZC_PRESSURE_PSI ? store->memory.pressure : -1, .events = POLLPRI},
    };
    uint64_t times;

    if (poll(on, 2, sleep_for(store)) < 0)
        return false;
    if (on[0].revents && read(keeper->event, &times, sizeof(times)) < 0 && errno != EAGAIN)
        return false;
    if (on[1].revents & (POLLERR | POLLHUP | POLLNVAL)) {
        keeper->source = ZC_PRESSURE_MEMINFO; /* the OS will not tell any more */
        return false;
    }
    return on[1].revents & POLLPRI || meminfo_is_low(store);
}

static void keep(zc_store *store)
{
    uint64_t retry = zc_limit_keep(store);

    store->keeper.due = zc_min64(retry, run_chores(store));
}

static void *keeper_main(void *arg)
{
    zc_store *store = arg;
    struct zc_keeper *keeper = &store->keeper;

    prctl(PR_SET_NAME, "zc-keeper");
    while (!keeper->stopping) {
        bool is_short = wait_for_work(store);
        keeper->busy = true; /* first: see zc_debug_settle() */
        keeper->woken = false;
        if (is_short)
            zc_limit_relieve(store);
        keep(store);
        keeper->busy = false;
    }
    return NULL;
}

void zc_keeper_start(zc_store *store)
{
    struct zc_keeper *keeper = &store->keeper;

    if (keeper->is_running || store->clock_ns)
        return;
    keeper->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (keeper->event < 0)
        return;
    keeper->due = UINT64_MAX;
    keeper->source = zc_memory_watch(&store->memory) ? ZC_PRESSURE_PSI : ZC_PRESSURE_MEMINFO;
    keeper->is_running = zc_thread_start(&keeper->thread, STACK_BYTES, keeper_main, store) == 0;
    if (keeper->is_running)
        return;
    keeper->source = ZC_PRESSURE_NONE;
    close(keeper->event);
}

void zc_keeper_stop(zc_store *store)
{
    struct zc_keeper *keeper = &store->keeper;

    if (!keeper->is_running)
        return;
    keeper->stopping = true;
    keeper->woken = false;
    zc_keeper_wake(store);
    pthread_join(keeper->thread, NULL);
    keeper->is_running = false;
    close(keeper->event);
}

void zc_keeper_wake(zc_store *store)
{
    static const uint64_t once = 1;
    struct zc_keeper *keeper = &store->keeper;

    if (keeper->woken || (!keeper->is_running && !store->clock_ns) ||
        atomic_exchange(&keeper->woken, true) || !keeper->is_running)
        return;
    while (write(keeper->event, &once, sizeof(once)) < 0 && errno == EINTR)
        ;
}

void zc_store_set_clock(zc_store *store, uint64_t ns)
{
    if (!store->clock_ns)
        store->keeper.due = UINT64_MAX;
    store->clock_ns = ns;
}

uint64_t zc_store_turn(zc_store *store)
{
    struct zc_keeper *keeper = &store->keeper;

    if (keeper->woken || keeper->due <= store->clock_ns) {
        keeper->woken = false;
        keep(store);
    }
    return keeper->due;
}

void zc_debug_settle(zc_store *store)
{
    const struct zc_keeper *keeper = &store->keeper;

    while (keeper->is_running &&
           (keeper->woken || keeper->busy || keeper->due <= zc_store_ns(store)))
        usleep(SETTLE_US);
}
