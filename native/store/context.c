/* SPDX-License-Identifier: Apache-2.0 */
#include "store/context.h"

#include "base/base.h"

static struct zc_context *context_new(zc_store *store, const struct zc_codec *codec)
{
    size_t bound = codec->bound;
    size_t size = sizeof(struct zc_context) + codec->compressor_size + 2 * bound;
    struct zc_context *context = calloc(1, size);
    if (!context)
        return NULL;

    context->codec = codec;
    context->size = size;
    context->zpage[0] = context->state + codec->compressor_size;
    context->zpage[1] = context->zpage[0] + bound;
    zc_compressor_init(codec, context->state);
    zc_frames_charge(store->frames, (ptrdiff_t)size);
    return context;
}

struct zc_context *zc_context_take(zc_store *store, const struct zc_codec *codec)
{
    pthread_mutex_lock(&store->contexts_lock);
    struct zc_context **at = &store->contexts;
    while (*at && (*at)->codec != codec)
        at = &(*at)->next;
    struct zc_context *context = *at;
    if (context)
        *at = context->next;
    pthread_mutex_unlock(&store->contexts_lock);

    return context ? context : context_new(store, codec);
}

void zc_context_give(zc_store *store, struct zc_context *context)
{
    pthread_mutex_lock(&store->contexts_lock);
    context->next = store->contexts;
    store->contexts = context;
    pthread_mutex_unlock(&store->contexts_lock);
}

void zc_contexts_free(zc_store *store)
{
    while (store->contexts) {
        struct zc_context *context = store->contexts;
        store->contexts = context->next;
        zc_frames_charge(store->frames, -(ptrdiff_t)context->size);
        free(context);
    }
}
