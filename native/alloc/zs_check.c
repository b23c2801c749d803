/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zsmalloc: is everything as it should be? A class at a time, under its lock and the table's, which
 * thus are held longer than ever else; others may go on with what they do.
 */
#include <errno.h>

#include "alloc/zs.h"
#include "base/node.h"

/* What the zspages of a class add up to. */
struct sum {
    uint32_t count[ZS_FULL + 1];
    uint32_t slots, room, frames, zpages;
};

static unsigned count_used(const struct zsmalloc *zs, struct zs_zspage *zspage, unsigned slots)
{
    unsigned used = 0;

    for (unsigned slot = 0; slot < slots; slot++)
        used += !zs_is_free(zs_head(zs, zspage, slot));
    return used;
}

/* A chain may neither leave the slots nor be longer than there are. */
static bool is_chain_right(const struct zsmalloc *zs, struct zs_zspage *zspage, unsigned slots)
{
    unsigned left = slots - zspage->used;
    unsigned slot = zspage->free;

    for (; slot < slots && left > 0; left--) {
        struct zc_zhead *head = zs_head(zs, zspage, slot);
        if (!zs_is_free(head))
            return false;
        slot = zs_load(&head->owner[1]);
    }
    return slot == ZS_NO_SLOT && left == 0;
}

/* NULL: nothing is. */
static const char *wrong_in_zspage(const struct zsmalloc *zs, struct zs_zspage *zspage)
{
    enum zs_list list = zs_list(zspage);

    if (zspage->frames > zs->shapes.shape[zspage->class].frames)
        return "more frames than its class has";
    if (!zs_is_pinned(list) && list != zc_zs_list_for(zs, zspage))
        return "not in the list of its fullness";
    if (zspage->class == ZS_HUGE)
        return !zs_is_pinned(list) && zs_is_free(&zspage->head) ? "kept without its zpage" : NULL;

    unsigned slots = zs_slots_in(&zs->shapes, zspage->class, zspage->frames);
    if (zspage->used > slots)
        return "more zpages than slots";
    if (!zs_is_pinned(list) && zspage->used == 0)
        return "kept without a zpage";
    if (count_used(zs, zspage, slots) != zspage->used)
        return "zpages are not as many as counted";
    if (list <= ZS_FULL && !is_chain_right(zs, zspage, slots))
        return "its chain of free slots is broken";
    return NULL;
}

static void add_up(const struct zsmalloc *zs, struct zs_zspage *zspage, struct sum *sum)
{
    enum zs_list list = zs_list(zspage);
    unsigned free_slots = zc_zs_free_slots(zs, zspage);

    sum->count[zs_is_pinned(list) ? ZS_NONE : list]++;
    sum->slots += zs_slots_in(&zs->shapes, zspage->class, zspage->frames);
    sum->frames += zspage->frames;
    sum->zpages += zspage->class == ZS_HUGE ? !zs_is_free(&zspage->head) : zspage->used;
    if (!zs_is_pinned(list))
        sum->room += free_slots;
}

static bool is_list_right(const struct zsmalloc *zs, unsigned class, enum zs_list list)
{
    const struct zs_class *c = &zs->classes[class];
    uint32_t number = c->first[list], left = c->count[list];

    if (!number)
        return left == 0 && !(c->listed >> list & 1);
    for (; left > 0; left--) {
        struct zs_zspage *zspage = zs_at(zs, number);
        if (zspage->class != class || zs_list(zspage) != list)
            return false;
        if (zspage->next - 1 >= zs->table.top || zs_at(zs, zspage->next)->prev != number)
            return false;
        number = zspage->next;
    }
    return number == c->first[list] && c->listed >> list & 1;
}

static const char *wrong_in_counts(const struct zs_class *class, const struct sum *sum)
{
    for (unsigned list = ZS_SPARSEST; list <= ZS_FULL; list++) {
        if (class->count[list] != sum->count[list])
            return "its count of zspages is wrong";
    }
    if (zs_load(&class->slots) != sum->slots)
        return "its count of slots is wrong";
    if (zs_load(&class->frames) != sum->frames)
        return "its count of frames is wrong";
    if (zs_load(&class->zpages) != sum->zpages)
        return "its count of zpages is wrong";
    if (zs_load(&class->room) != sum->room)
        return "its count of free slots is wrong";
    return NULL;
}

static const char *wrong_in_class(const struct zsmalloc *zs, unsigned class, uint32_t *number)
{
    struct sum sum = {0};
    const char *wrong;

    for (*number = 1; *number <= zs->table.top; ++*number) {
        struct zs_zspage *zspage = zs_at(zs, *number);
        if (zspage->class != class || zspage->frames == 0)
            continue;
        wrong = wrong_in_zspage(zs, zspage);
        if (wrong)
            return wrong;
        add_up(zs, zspage, &sum);
    }

    *number = 0;
    wrong = wrong_in_counts(&zs->classes[class], &sum);
    for (unsigned list = ZS_SPARSEST; list < ZS_LISTS && !wrong; list++)
        wrong = is_list_right(zs, class, list) ? NULL : "a list of its zspages is broken";
    return wrong;
}

static void say(struct zc_text *why, const struct zsmalloc *zs, unsigned class, uint32_t number,
                const char *wrong)
{
    zc_text_add(why, "zsmalloc, slots of %u bytes", zs->shapes.shape[class].size);
    if (number)
        zc_text_add(why, ", zspage %u", number);
    zc_text_add(why, ": %s", wrong);
}

int zc_zs_check(void *alloc, struct zc_text *why)
{
    struct zsmalloc *zs = alloc;
    const char *wrong = NULL;

    pthread_mutex_lock(&zs->table_lock);
    for (unsigned class = 0; class < zs->shapes.count && !wrong; class++) {
        uint32_t number;
        zc_lock_take(&zs->classes[class].lock);
        wrong = wrong_in_class(zs, class, &number);
        if (wrong)
            say(why, zs, class, number, wrong);
        zc_lock_leave(&zs->classes[class].lock);
    }
    pthread_mutex_unlock(&zs->table_lock);
    return wrong ? -EUCLEAN : 0;
}
