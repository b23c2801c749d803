/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/commands/population.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "base/hash.h"

int zc_population_init(struct zc_population *population, size_t page_size, size_t most,
                       enum zc_process_pages pages)
{
    uint64_t seed;

    *population = (struct zc_population){.page_size = page_size, .pages = pages, .fd = -1};
    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        seed = zc_now_ns();
    population->sources = calloc(ZC_SOURCES_MAX, sizeof(*population->sources));
    population->mappings = calloc(ZC_MAPPINGS_MAX, sizeof(*population->mappings));
    int error = zc_reservoir_init(&population->sample, most, seed);
    return population->sources && population->mappings ? error : -ENOMEM;
}

void zc_population_fini(struct zc_population *population)
{
    if (population->fd >= 0)
        close(population->fd);
    free(population->sources);
    free(population->mappings);
    zc_reservoir_fini(&population->sample);
}

/* ---- processes ---- */

/* A file of the process in /proc as text, cut at the size; its length, 0: none. */
static size_t read_text(int pid, const char *name, char *text, size_t size)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? 0 : read(fd, text, size - 1);
    if (fd >= 0)
        close(fd);
    len = len > 0 ? len : 0;
    text[len] = '\0';
    return (size_t)len;
}

/* The value of "NAME: N kB" in bytes; 0: not there. */
static uint64_t field(const char *status, const char *name)
{
    const char *at = strstr(status, name);

    return at ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

/* False: there is no such process, or it has no memory: one of the kernel's, or it has ended. */
static bool describe(struct zc_source *source, int pid)
{
    char status[4096];

    *source = (struct zc_source){.pid = pid};
    if (!read_text(pid, "status", status, sizeof(status)) || !strstr(status, "\nVmSize:"))
        return false;
    source->anonymous = field(status, "\nRssAnon:");
    source->file = field(status, "\nRssFile:");
    source->swapped = field(status, "\nVmSwap:");
    if (!read_text(pid, "cmdline", source->name, sizeof(source->name)) || !source->name[0])
        read_text(pid, "comm", source->name, sizeof(source->name));
    return true;
}

uint64_t zc_population_own_peak(void)
{
    char status[4096];

    return read_text((int)getpid(), "status", status, sizeof(status)) ? field(status, "\nVmHWM:")
                                                                      : 0;
}

static int add_region(void *arg, uint64_t start, uint64_t end)
{
    struct zc_population *population = arg;
    struct zc_source *source = &population->sources[population->count];

    zc_reservoir_add(&population->sample, (uint32_t)population->count, start, end,
                     population->page_size);
    source->pages += (end - start) / population->page_size;
    return 0;
}

/* Files are mapped by many processes: a part of one is looked at once. */
static int is_new_mapping(void *arg, const char *mapping)
{
    struct zc_population *population = arg;
    uint64_t hash = zc_hash(mapping, strlen(mapping));

    for (size_t i = 0; i < population->mapping_count; i++) {
        if (population->mappings[i] == hash)
            return false;
    }
    if (population->mapping_count == ZC_MAPPINGS_MAX) {
        population->left_out++;
        return false;
    }
    population->mappings[population->mapping_count++] = hash;
    return true;
}

/* May it be read? Pages are listed for more than may read them. */
static int check_access(struct zc_population *population, int pid)
{
    struct zc_process process;
    int error = zc_process_attach(&process, pid, population->page_size);

    if (!error)
        zc_process_close(&process);
    return error;
}

/* Its description is in place. */
static int add_source(struct zc_population *population, uint64_t until_ns)
{
    struct zc_source *source = &population->sources[population->count];
    struct zc_process_walk walk = {
        .page_size = population->page_size,
        .pages = population->pages,
        .until_ns = until_ns,
        .visit = add_region,
        .wants = is_new_mapping,
        .arg = population,
    };

    source->error = check_access(population, source->pid);
    if (!source->error)
        source->error = zc_process_walk(source->pid, &walk);
    population->count++;
    return source->error == -ETIME ? -ETIME : 0;
}

int zc_population_add_process(struct zc_population *population, int pid, uint64_t until_ns)
{
    if (population->count == ZC_SOURCES_MAX)
        return -ENOSPC;
    if (!describe(&population->sources[population->count], pid))
        return -ESRCH;
    return add_source(population, until_ns);
}

/* Our own processes hold what is compressed already. */
static bool is_ours(const char *name)
{
    const char *slash = strrchr(name, '/');

    return strcmp(slash ? slash + 1 : name, "zcached") == 0;
}

static bool is_of_app(const char *name, const char *app)
{
    size_t len = strlen(app);

    return strncmp(name, app, len) == 0 && (name[len] == '\0' || name[len] == ':');
}

int zc_population_add_processes(struct zc_population *population, const char *app,
                                uint64_t until_ns, void (*pause)(void *arg), void *arg)
{
    DIR *proc = opendir("/proc");
    int error = proc ? 0 : -errno;

    for (struct dirent *entry; !error && (entry = readdir(proc));) {
        int pid = atoi(entry->d_name);
        struct zc_source *source = &population->sources[population->count];
        if (pid <= 0)
            continue;
        if (population->count == ZC_SOURCES_MAX) {
            population->left_out++;
            continue;
        }
        if (!describe(source, pid) || is_ours(source->name) ||
            (app && !is_of_app(source->name, app)))
            continue;
        error = add_source(population, until_ns);
        pause(arg);
    }
    if (proc)
        closedir(proc);
    return error;
}

/* ---- a file ---- */

int zc_population_add_file(struct zc_population *population, const char *path)
{
    struct zc_source *source = &population->sources[0];
    struct stat st;

    population->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (population->fd < 0 || fstat(population->fd, &st) != 0)
        return -errno;
    snprintf(source->name, sizeof(source->name), "%s", path);
    add_region(population, 0, (uint64_t)st.st_size / population->page_size * population->page_size);
    population->count = 1;
    return 0;
}

/* ---- the sample ---- */

bool zc_population_read(struct zc_population *population, const struct zc_pick *pick, void *page)
{
    struct zc_source *source = &population->sources[pick->source];
    struct zc_process process;
    size_t size = population->page_size;

    if (population->fd >= 0)
        return pread(population->fd, page, size, (off_t)pick->address) == (ssize_t)size;
    int error = zc_process_attach(&process, source->pid, size);
    if (!error) {
        int got = zc_process_read(&process, pick->address, page);
        zc_process_close(&process);
        if (got >= 0)
            return got;
        error = got;
    }
    source->error = error;
    return false;
}
