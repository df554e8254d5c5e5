/* Control groups: where commands run, so that they are frozen with the rest, and small files. */
#include "agent.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroups.h"

ssize_t read_file(const char *path, char *text, size_t room) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return -1;
  size_t have = 0;
  ssize_t length;
  while (have < room - 1 && (length = read(file, text + have, room - 1 - have)) != 0) {
    if (length > 0) have += (size_t)length;
    else if (errno != EINTR) break;
  }
  int failed = errno;
  close(file);
  errno = failed;
  text[have] = 0;
  return (ssize_t)have;
}

int write_text(const char *path, const char *text) {
  int file = open(path, O_WRONLY | O_CLOEXEC);
  if (file < 0) return -1;
  size_t length = strlen(text);
  ssize_t written = write(file, text, length);
  int failed = errno;
  close(file);
  errno = failed;
  return written == (ssize_t)length ? 0 : -1;
}

int has_groups(void) { return access(GROUPS "/cgroup.controllers", F_OK) == 0; }

int command_group(void) {
  static int group = -1;
  if (group >= 0) return group;
  if (!has_groups()) return -1;
  if (mkdir(COMMANDS_GROUP, 0755) != 0 && errno != EEXIST) return -1;
  group = open(COMMANDS_GROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return group;
}
