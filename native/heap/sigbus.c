/* SPDX-License-Identifier: Apache-2.0 */
#include "heap/sigbus.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <ucontext.h>

#include "base/base.h"

#define SIGNALS 64 /* the kernel's */
/* The C library's type may be larger, or, 32-bit Android's, smaller. */
#define MASK_BYTES zc_min(SIGNALS / 8, sizeof(sigset_t))

static struct {
    _Atomic(zc_heap *) heap;
    atomic_uint users; /* handlers that look at it */
} heaps[ZC_HEAPS_MAX];

static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;
static unsigned heap_count;
static bool is_installed;
static struct sigaction before;     /* changed only while ours is not installed */
static atomic_bool before_is_spent; /* it was to be called once */

static bool bring(const void *address)
{
    int error = -ENOENT;

    for (size_t i = 0; i < ZC_HEAPS_MAX && error == -ENOENT; i++) {
        if (!atomic_load_explicit(&heaps[i].heap, memory_order_relaxed))
            continue;
        atomic_fetch_add(&heaps[i].users, 1);
        zc_heap *heap = atomic_load(&heaps[i].heap);
        if (heap)
            error = zc_heap_fault(heap, address);
        atomic_fetch_sub(&heaps[i].users, 1);
    }
    return error == 0;
}

/* ---- what is none of the heaps' ---- */

/* An access that is tried again ends the process; what was sent by somebody has to be sent again. */
static void default_action(int number, const siginfo_t *info)
{
    signal(number, SIG_DFL);
    if (info->si_code <= 0)
        raise(number);
}

/* As if the kernel had called it, with the signals blocked that it would have blocked. */
static void call(const struct sigaction *action, int number, siginfo_t *info, void *context)
{
    sigset_t mask, ours;

    sigemptyset(&mask);
    memcpy(&mask, &((const ucontext_t *)context)->uc_sigmask, MASK_BYTES);
    for (int other = 1; other <= SIGNALS; other++)
        if (sigismember(&action->sa_mask, other) == 1)
            sigaddset(&mask, other);
    if (!(action->sa_flags & SA_NODEFER))
        sigaddset(&mask, number);
    pthread_sigmask(SIG_SETMASK, &mask, &ours);
    if (action->sa_flags & SA_SIGINFO)
        action->sa_sigaction(number, info, context);
    else
        action->sa_handler(number);
    pthread_sigmask(SIG_SETMASK, &ours, NULL);
}

static void hand_on(int number, siginfo_t *info, void *context)
{
    bool is_handler = before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN;

    if (before.sa_handler == SIG_IGN && info->si_code <= 0)
        return;
    if (!is_handler ||
        ((before.sa_flags & (int)SA_RESETHAND) && atomic_exchange(&before_is_spent, true)))
        default_action(number, info);
    else
        call(&before, number, info, context);
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    int error = errno;

    if (info->si_code <= 0 || !bring(info->si_addr))
        hand_on(number, info, context);
    errno = error;
}

/* ---- coming and going ---- */

static int install(void)
{
    struct sigaction ours = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    if (is_installed)
        return 0;
    sigfillset(&ours.sa_mask);
    before_is_spent = false;
    if (sigaction(SIGBUS, NULL, &before) != 0 || sigaction(SIGBUS, &ours, NULL) != 0)
        return -errno;
    is_installed = true;
    return 0;
}

/* Who has put a handler over ours keeps it, and may call ours. */
static void uninstall(void)
{
    struct sigaction now;

    if (sigaction(SIGBUS, NULL, &now) != 0 || !(now.sa_flags & SA_SIGINFO) ||
        now.sa_sigaction != on_sigbus)
        return;
    sigaction(SIGBUS, &before, NULL);
    is_installed = false;
}

static int add(zc_heap *heap)
{
    size_t i = 0;

    while (i < ZC_HEAPS_MAX && atomic_load(&heaps[i].heap))
        i++;
    if (i == ZC_HEAPS_MAX)
        return -EBUSY;
    int error = install();
    if (error)
        return error;
    atomic_store(&heaps[i].heap, heap);
    heap_count++;
    return 0;
}

int zc_sigbus_add(zc_heap *heap)
{
    pthread_mutex_lock(&changing);
    int error = add(heap);
    pthread_mutex_unlock(&changing);
    return error;
}

static void remove_at(size_t i)
{
    atomic_store(&heaps[i].heap, NULL);
    while (atomic_load(&heaps[i].users))
        sched_yield();
    if (--heap_count == 0)
        uninstall();
}

void zc_sigbus_remove(zc_heap *heap)
{
    pthread_mutex_lock(&changing);
    for (size_t i = 0; i < ZC_HEAPS_MAX; i++)
        if (atomic_load(&heaps[i].heap) == heap)
            remove_at(i);
    pthread_mutex_unlock(&changing);
}
