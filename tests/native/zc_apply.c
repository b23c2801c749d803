/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zc_apply ROOT DIR plan|recover CALL FAULT: zcached's apply over a FAKE kernel and daemon, which are the files below ROOT;
 * what they do is below, as far as apply can tell. Of the calls that change something, the CALL-th (0: none) does
 * FAULT: die (before it), after (die behind it), half (die in the middle of it), or fail with that error; an error
 * with a + behind fails all calls from then on. Prints what apply says, then `calls N`.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "zcached/apply/apply.h"

#define DIED 42
#define TEXT 4096
#define ALGORITHMS "lzo-rle lz4 zstd"

static const char *root, *fault;
static unsigned calls, fault_at;

/* ---- faults ---- */

static bool is_fault(void)
{
    return fault_at && (calls == fault_at || (calls > fault_at && strchr(fault, '+')));
}

/* 0, or the error that this call fails with. */
static int begin(void)
{
    static const int errors[] = {EINVAL, EIO, ENOSPC, EBUSY, ENOMEM, EPERM};
    char buf[16];

    calls++;
    if (!is_fault())
        return 0;
    if (strcmp(fault, "die") == 0)
        _exit(DIED);
    for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
        const char *name = zc_errno_name(errors[i], buf);
        if (strncmp(fault, name, strlen(name)) == 0)
            return -errors[i];
    }
    return 0;
}

static int end(int result)
{
    if (is_fault() && (strcmp(fault, "after") == 0 || strcmp(fault, "half") == 0))
        _exit(DIED);
    return result;
}

/* ---- the files of the fake ---- */

static void join(char path[TEXT], const char *format, const char *a, const char *b)
{
    snprintf(path, TEXT, format, root, a, b);
}

static int load(const char *path, char text[TEXT])
{
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return -errno;
    ssize_t len = read(fd, text, TEXT - 1);
    close(fd);
    text[len > 0 ? len : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return 0;
}

static void save(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    if (!file || fprintf(file, "%s\n", text) < 0 || fclose(file) != 0)
        abort();
}

static void save_zram(const char *name, const char *file, const char *text)
{
    char path[TEXT];

    join(path, "%s/sys/block/%s/%s", name, file);
    save(path, text);
}

static bool is_swap(const char *name)
{
    char path[TEXT], text[TEXT];

    join(path, "%s/proc/swaps%s%s", "", "");
    int fd = open(path, O_RDONLY);
    ssize_t len = read(fd, text, TEXT - 1);
    close(fd);
    text[len > 0 ? len : 0] = '\0';
    return strstr(text, name) != NULL;
}

static bool is_set_up(const char *name)
{
    char path[TEXT], text[TEXT];

    join(path, "%s/sys/block/%s/disksize%s", name, "");
    return load(path, text) == 0 && strcmp(text, "0") != 0;
}

/* ALGORITHMS with that one in brackets. */
static int choose(const char *algorithm, const char *before, char text[TEXT])
{
    const char *at = strstr(ALGORITHMS, algorithm);
    size_t len = strlen(algorithm);

    if (!at || !len || (at[len] && at[len] != ' '))
        return -EINVAL;
    snprintf(text, TEXT, "%s%.*s[%s]%s", before, (int)(at - ALGORITHMS), ALGORITHMS, algorithm,
             at + len);
    return 0;
}

static int reset(const char *name)
{
    char path[TEXT], text[TEXT];

    if (is_swap(name))
        return -EBUSY;
    choose("lzo-rle", "", text);
    save_zram(name, "disksize", "0");
    save_zram(name, "comp_algorithm", text);
    save_zram(name, "recomp_algorithm", "#1: " ALGORITHMS);
    save_zram(name, "backing_dev", "none");
    save_zram(name, "mm_stat", "0 0 0 0 0 0 0 0 0");
    join(path, "%s/dev/%s%s", name, "");
    save(path, "");
    return 0;
}

static int write_zram(const char *name, const char *file, const char *value)
{
    char text[TEXT], algorithm[32];
    int error = 0;

    if (strcmp(file, "reset") == 0)
        return reset(name);
    if (strcmp(file, "mem_limit") == 0) {
        snprintf(text, sizeof(text), "0 0 0 %s 0 0 0 0 0", value);
        save_zram(name, "mm_stat", text);
        return 0;
    }
    if (strncmp(file, "writeback_limit", 15) != 0 && is_set_up(name))
        return -EBUSY;
    snprintf(text, sizeof(text), "%s", value);
    if (strcmp(file, "comp_algorithm") == 0)
        error = choose(value, "", text);
    else if (strcmp(file, "recomp_algorithm") == 0)
        error = sscanf(value, "algo=%31s priority=1", algorithm) == 1
                    ? choose(algorithm, "#1: ", text)
                    : -EINVAL;
    if (!error)
        save_zram(name, file, text);
    return error;
}

/* ---- the calls ---- */

static bool is_zswap_on(void)
{
    char path[TEXT], text[TEXT];

    join(path, "%s/sys/module/zswap/parameters/enabled%s%s", "", "");
    return load(path, text) == 0 && strcmp(text, "Y") == 0;
}

/* Any is taken while zswap is off; once it is on, the default one instead of one that is not there. */
static void choose_compressor(void)
{
    char path[TEXT], text[TEXT];

    join(path, "%s/sys/module/zswap/parameters/compressor%s%s", "", "");
    if (is_zswap_on() && load(path, text) == 0 && !strstr(ALGORITHMS, text))
        save(path, "lzo-rle");
}

static int fake_write(const char *path, const char *value)
{
    char zram[] = "/sys/block/", name[64];
    int error = begin();
    const char *below = path + strlen(root);

    if (error)
        return error;
    if (strncmp(below, zram, strlen(zram)) == 0) {
        const char *slash = strchr(below + strlen(zram), '/');
        snprintf(name, sizeof(name), "%.*s", (int)(slash - below - (int)strlen(zram)),
                 below + strlen(zram));
        return end(write_zram(name, slash + 1, value));
    }
    if (access(path, F_OK) != 0)
        return end(-ENOENT);
    if (strstr(path, "zswap/parameters/compressor") && is_zswap_on() && !strstr(ALGORITHMS, value))
        return end(-EINVAL);
    save(path, value);
    if (strstr(path, "zswap/parameters/enabled"))
        choose_compressor();
    return end(0);
}

static int fake_make_swap(const char *device)
{
    int error = begin();

    if (!error)
        save(device, "swap");
    return error ? error : end(0);
}

static int fake_swap_on(const char *device, int priority)
{
    char path[TEXT], text[TEXT];
    int error = begin();

    if (error)
        return error;
    if (load(device, text) != 0 || strcmp(text, "swap") != 0)
        return end(-EINVAL);
    join(path, "%s/proc/swaps%s%s", "", "");
    FILE *file = fopen(path, "a");
    fprintf(file, "%s partition 1024 0 %d\n", device + strlen(root), priority < 0 ? -2 : priority);
    fclose(file);
    return end(0);
}

static int fake_swap_off(const char *device)
{
    char path[TEXT], line[TEXT], kept[TEXT] = "";
    bool is_there = false;
    int error = begin();

    if (error)
        return error;
    join(path, "%s/proc/swaps%s%s", "", "");
    FILE *file = fopen(path, "r");
    while (fgets(line, sizeof(line), file)) {
        bool is_it = strncmp(line, device, strlen(device)) == 0 && line[strlen(device)] == ' ';
        is_there |= is_it;
        if (!is_it)
            strncat(kept, line, sizeof(kept) - strlen(kept) - 1);
    }
    fclose(file);
    kept[strlen(kept) - 1] = '\0';
    save(path, kept);
    return end(is_there ? 0 : -EINVAL);
}

static void node_path(char path[TEXT], const char *node)
{
    join(path, "%s/tree/%s%s", node, "");
    for (char *at = path + strlen(root) + strlen("/tree/"); *at; at++)
        *at = *at == '/' ? ':' : *at;
}

/* A pool, or the swap device: what its name says, and all of it. */
static int act(const char *node, const char *value)
{
    char path[TEXT], name[64];

    if (strcmp(node, "pools/create") == 0 && sscanf(value, "name=%63s", name) == 1) {
        snprintf(path, sizeof(path), "pools/%s/kind", name);
        char of[TEXT];
        memcpy(of, path, sizeof(of));
        node_path(path, of);
        save(path, "persistent");
    } else if (sscanf(node, "pools/%63[^/]/destroy", name) == 1 && strstr(node, "/destroy")) {
        static const char *const nodes[] = {"kind", "params/checksums"};
        for (size_t i = 0; i < 2; i++) {
            char of[128];
            snprintf(of, sizeof(of), "pools/%s/%s", name, nodes[i]);
            node_path(path, of);
            unlink(path);
        }
    } else
        return -ENOENT;
    return 0;
}

/* set NODE VALUE, of an action; or set NODE "VALUE" …, each after the first a node that is there, or of a pool that is. */
static int fake_set(const char *words)
{
    char node[128], value[256], path[TEXT];
    int used;

    if (sscanf(words, "%127s %255[^\n]", node, value) == 2 && value[0] != '"')
        return act(node, value);
    for (; sscanf(words, " %127s \"%255[^\"]\"%n", node, value, &used) == 2; words += used) {
        node_path(path, node);
        save(path, value);
    }
    return 0;
}

static int fake_ask(const char *dir, const char *request, struct zc_text *answer)
{
    char path[TEXT], text[TEXT];

    (void)dir;
    if (strncmp(request, "get ", 4) == 0) {
        node_path(path, request + 4);
        int error = load(path, text);
        if (!error)
            zc_text_add(answer, "%s", text);
        return error;
    }
    int error = begin();
    return error ? error : end(fake_set(request + 4));
}

static int fake_put(int dir, const char *name, const char *text)
{
    int error = begin();
    size_t size = strlen(text);
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    if (error || (is_fault() && strcmp(fault, "half") == 0))
        size /= 2;
    if (fd < 0 || write(fd, text, size) != (ssize_t)size)
        abort();
    close(fd);
    return error ? error : end(0);
}

static int fake_move(int dir, const char *from, const char *to)
{
    int error = begin();

    return error ? error : end(zc_system_calls.move(dir, from, to));
}

static int fake_drop(int dir, const char *name)
{
    int error = begin();

    return error ? error : end(zc_system_calls.drop(dir, name));
}

static const struct zc_system_calls fake = {
    .write = fake_write,
    .make_swap = fake_make_swap,
    .swap_on = fake_swap_on,
    .swap_off = fake_swap_off,
    .ask = fake_ask,
    .put = fake_put,
    .move = fake_move,
    .drop = fake_drop,
};

static void print(void *arg, const char *line)
{
    (void)arg;
    puts(line);
}

int main(int argc, char **argv)
{
    char plan[64 * 1024];

    if (argc != 6)
        return 2;
    root = argv[1];
    fault_at = (unsigned)atoi(argv[4]);
    fault = argv[5];
    struct zc_apply apply = {
        .system = {.calls = &fake, .root = root},
        .path = argv[2],
        .dir = open(argv[2], O_RDONLY | O_DIRECTORY),
        .say = print,
    };
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(argv[3], "recover") == 0)
        zc_apply_recover(&apply);
    else {
        plan[fread(plan, 1, sizeof(plan) - 1, stdin)] = '\0';
        zc_apply_plan(&apply, plan);
    }
    close(apply.dir);
    printf("calls %u\n", calls);
    return 0;
}
