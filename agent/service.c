/* The process of an image: its description, which the host has put on the seed drive, and becoming it. */
#include "service.h"
#include "agent.h"
#include "spawn.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DESCRIPTION RUN_DIRECTORY "/service"
/* arguments and environment, which the kernel limits to 2 MiB */
#define MAX_DESCRIPTION (4u << 20)
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define GRACE_MS 10000

static void add(char ***list, size_t *count, char *text) {
  *list = realloc(*list, (*count + 2) * sizeof **list);
  if (!*list) die("memory");
  (*list)[(*count)++] = text;
  (*list)[*count] = NULL;
}

static int starts(const char *text, const char *with, char **rest) {
  size_t length = strlen(with);
  if (strncmp(text, with, length) != 0) return 0;
  *rest = (char *)text + length;
  return 1;
}

/* Records `KEY=VALUE`, each with a zero byte behind it. */
int read_service(struct service *service) {
  struct stat seen;
  *service = (struct service){
      .stop_signal = SIGTERM,
      .grace_ms = GRACE_MS,
      .check_interval_ms = 30000,
      .check_timeout_ms = 30000,
      .check_start_interval_ms = 5000,
      .check_retries = 3,
  };
  int file = open(DESCRIPTION, O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  if (fstat(file, &seen) != 0 || seen.st_size <= 0 || seen.st_size > MAX_DESCRIPTION) {
    close(file);
    return 0;
  }
  size_t length = (size_t)seen.st_size, have = 0;
  service->text = calloc(1, length + 1);
  if (!service->text) die("memory");
  ssize_t got;
  while (have < length && (got = read(file, service->text + have, length - have)) > 0) have += (size_t)got;
  close(file);
  for (char *at = service->text; at < service->text + have; at += strlen(at) + 1) {
    char *value;
    if (starts(at, "arg=", &value)) add(&service->argv, &service->count, value);
    else if (starts(at, "env=", &value)) add(&service->environment, &service->variables, value);
    else if (starts(at, "user=", &value)) service->user = value;
    else if (starts(at, "directory=", &value)) service->directory = value;
    else if (starts(at, "restart=", &value)) service->restart = value;
    else if (starts(at, "stop=", &value)) service->stop_signal = atoi(value);
    else if (starts(at, "grace=", &value)) service->grace_ms = atoi(value);
    else if (starts(at, "check=", &value)) add(&service->check, &service->checks, value);
    else if (starts(at, "check-interval=", &value)) service->check_interval_ms = atoi(value);
    else if (starts(at, "check-timeout=", &value)) service->check_timeout_ms = atoi(value);
    else if (starts(at, "check-start=", &value)) service->check_start_ms = atoi(value);
    else if (starts(at, "check-start-interval=", &value)) service->check_start_interval_ms = atoi(value);
    else if (starts(at, "check-retries=", &value)) service->check_retries = atoi(value);
  }
  if (service->stop_signal < 1 || service->stop_signal > 64) service->stop_signal = SIGTERM;
  return service->count > 0;
}

static int number_of(const char *text, unsigned *number) {
  char *end = NULL;
  errno = 0;
  unsigned long value = strtoul(text, &end, 10);
  if (*text < '0' || *text > '9' || *end || errno || value >= 4294967295ul) return 0;
  *number = (unsigned)value;
  return 1;
}

/* `NAME`, `ID`, either with `:GROUP` behind it. An id need not be of anybody the image knows. */
static const char *become_user(const char *text, const char **home) {
  char name[256];
  uid_t uid = 0;
  gid_t gid = 0;
  unsigned number;
  *home = "/root";
  if (!text || !*text) return NULL;
  if (snprintf(name, sizeof name, "%s", text) >= (int)sizeof name) return "its user";
  char *group = strchr(name, ':');
  if (group) *group++ = 0;
  struct passwd *user = getpwnam(name);
  if (!user && number_of(name, &number)) {
    user = getpwuid(number);
    uid = number;
    *home = "/";
  } else if (!user && strcmp(name, "root") != 0 && *name) {
    errno = ENOENT;
    return "its user is none of the image's";
  }
  if (user) {
    uid = user->pw_uid;
    gid = user->pw_gid;
    *home = strdup(user->pw_dir && *user->pw_dir ? user->pw_dir : "/");
  }
  if (group && *group) {
    struct group *found = getgrnam(group);
    if (found) gid = found->gr_gid;
    else if (number_of(group, &number)) gid = number;
    else {
      errno = ENOENT;
      return "its group is none of the image's";
    }
  }
  if (geteuid() != 0) return NULL; /* tests: there is nobody else to become */
  int groups = user && !group ? initgroups(user->pw_name, gid) : setgroups(1, &gid);
  if (groups != 0 || setgid(gid) != 0 || setuid(uid) != 0) return "its user could not be taken on";
  return NULL;
}

static void make_directory(const char *path) {
  char text[4096];
  if (snprintf(text, sizeof text, "%s", path) >= (int)sizeof text) return;
  for (char *at = strchr(text + 1, '/'); at; at = strchr(at + 1, '/')) {
    *at = 0;
    mkdir(text, 0755);
    *at = '/';
  }
  mkdir(text, 0755);
}

extern char **environ;

const char *run_service(const struct service *service, int output) {
  const char *home = "/", *directory = service->directory && *service->directory ? service->directory : "/";
  struct stat seen;
  if (output >= 0) {
    int in = open("/dev/null", O_RDONLY);
    if (in < 0 || dup2(in, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0) return "its output";
    if (in > 2) close(in);
  }
  if (stat(directory, &seen) != 0) make_directory(directory);
  /* /dev/stdout is opened anew by some, as the user that they are */
  if (output >= 0 && service->user && *service->user) fchmod(1, 0666);
  const char *wrong = become_user(service->user, &home);
  if (wrong) return wrong;
  if (chdir(directory) != 0) return "its directory";
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  clearenv();
  setenv("PATH", DEFAULT_PATH, 1);
  setenv("HOME", home, 1);
  setenv("HOSTNAME", name, 1);
  for (size_t at = 0; at < service->variables; at++) putenv(service->environment[at]);
  execvp(service->argv[0], service->argv);
  return service->argv[0];
}

int exec_service(void) {
  struct service service;
  if (!read_service(&service)) return 0;
  fprintf(stderr, "banger-agent: %s: ", run_service(&service, -1));
  perror(NULL);
  return 127;
}
