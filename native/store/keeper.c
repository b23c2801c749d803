/* SPDX-License-Identifier: Apache-2.0 */
#include "store/keeper.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/base.h"
#include "base/thread.h"
#include "store/limit.h"
#include "store/pool.h"

#define LOOK_NS UINT64_C(1000000000) /* between looks at meminfo */
#define SETTLE_US 100u
#define STACK_BYTES (128u * 1024)

/* Milliseconds until meminfo is to be looked at; -1: never, as poll() takes it. */
static int look_in(const zc_store *store)
{
    const struct zc_keeper *keeper = &store->keeper;

    if (keeper->source != ZC_PRESSURE_MEMINFO || !zc_limit_has_ephemeral(store))
        return -1;
    uint64_t now = zc_now_ns();
    return now < keeper->next_look ? (int)((keeper->next_look - now) / 1000000 + 1) : 0;
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

    if (poll(on, 2, look_in(store)) < 0)
        return false;
    if (on[0].revents && read(keeper->event, &times, sizeof(times)) < 0 && errno != EAGAIN)
        return false;
    if (on[1].revents & (POLLERR | POLLHUP | POLLNVAL)) {
        keeper->source = ZC_PRESSURE_MEMINFO; /* the OS will not tell any more */
        return false;
    }
    return on[1].revents & POLLPRI || meminfo_is_low(store);
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
        zc_limit_keep(store);
        keeper->busy = false;
    }
    return NULL;
}

void zc_keeper_start(zc_store *store)
{
    struct zc_keeper *keeper = &store->keeper;

    if (keeper->is_running)
        return;
    keeper->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (keeper->event < 0)
        return;
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
    close(keeper->event);
}

void zc_keeper_wake(zc_store *store)
{
    static const uint64_t once = 1;
    struct zc_keeper *keeper = &store->keeper;

    if (!keeper->is_running || keeper->woken || atomic_exchange(&keeper->woken, true))
        return;
    while (write(keeper->event, &once, sizeof(once)) < 0 && errno == EINTR)
        ;
}

void zc_debug_settle(zc_store *store)
{
    while (store->keeper.woken || store->keeper.busy)
        usleep(SETTLE_US);
}
