/* The kernel's list of processes: who is whose child, and of which session. */
#include "processes.h"
#include "agent.h"
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int by_number(const void *one, const void *other) {
  pid_t a = ((const struct process *)one)->pid, b = ((const struct process *)other)->pid;
  return (a > b) - (a < b);
}

/* `PID (NAME) STATE PARENT GROUP SESSION …`; the name may hold anything. */
static int read_process(const char *number, struct process *process) {
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/%.12s/stat", number);
  if (read_file(path, text, sizeof text) < 0) return 0;
  char *rest = strrchr(text, ')');
  int parent, group, session;
  if (!rest || sscanf(rest + 1, " %*c %d %d %d", &parent, &group, &session) != 3) return 0;
  *process = (struct process){.pid = (pid_t)atoi(number), .parent = parent, .session = session};
  return 1;
}

/* Whether the program it runs is such a one. */
static int runs_such(const char *number, int (*is_such)(const char *)) {
  char path[64], program[512];
  snprintf(path, sizeof path, "/proc/%.12s/exe", number);
  ssize_t length = readlink(path, program, sizeof program - 1);
  if (length < 0) return 0;
  program[length] = 0;
  /* one that was upgraded runs on from its old file */
  char *deleted = strstr(program, " (deleted)");
  if (deleted) *deleted = 0;
  return is_such(program);
}

/* Room is made by doubling it. */
static void add(struct processes *processes, const char *number) {
  size_t count = processes->count;
  if (count == 0 || (count >= 64 && (count & (count - 1)) == 0)) {
    processes->list = realloc(processes->list, (count < 64 ? 64 : count * 2) * sizeof *processes->list);
    if (!processes->list) die("memory");
  }
  if (read_process(number, &processes->list[count])) processes->count++;
}

void add_program(struct processes *processes, pid_t pid, int (*is_such)(const char *)) {
  char number[16];
  snprintf(number, sizeof number, "%d", (int)pid);
  if (runs_such(number, is_such)) add(processes, number);
}

pid_t last_process(void) {
  char text[64];
  const char *last = read_file("/proc/loadavg", text, sizeof text) > 0 ? strrchr(text, ' ') : NULL;
  return last ? (pid_t)atoi(last + 1) : -1;
}

void list_programs(struct processes *processes, int (*is_such)(const char *)) {
  *processes = (struct processes){0};
  DIR *directory = opendir("/proc");
  if (!directory) return;
  for (struct dirent *entry; (entry = readdir(directory));) {
    if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
    if (is_such && !runs_such(entry->d_name, is_such)) continue;
    add(processes, entry->d_name);
  }
  closedir(directory);
  if (processes->count > 0) qsort(processes->list, processes->count, sizeof *processes->list, by_number);
}

void list_processes(struct processes *processes) { list_programs(processes, NULL); }

const struct process *find_process(const struct processes *processes, pid_t pid) {
  struct process wanted = {.pid = pid};
  if (processes->count == 0) return NULL;
  return bsearch(&wanted, processes->list, processes->count, sizeof wanted, by_number);
}

void signal_session(pid_t leader, int number) {
  struct processes all;
  list_processes(&all);
  for (size_t at = 0; at < all.count; at++)
    all.list[at].marked = all.list[at].pid == leader || all.list[at].session == leader;
  for (int more = 1; more;) {
    more = 0;
    for (size_t at = 0; at < all.count; at++) {
      struct process *one = &all.list[at];
      if (one->marked) continue;
      const struct process *parent = find_process(&all, one->parent), *of = find_process(&all, one->session);
      if (!(parent && parent->marked) && !(of && of->marked)) continue;
      one->marked = 1;
      more = 1;
    }
  }
  for (size_t at = 0; at < all.count; at++)
    if (all.list[at].marked && all.list[at].pid != getpid()) kill(all.list[at].pid, number);
  free(all.list);
}
