/* Who a guest is: names, ids, keys, files. What is replaced is replaced as a whole, so that nobody reads half of it. */
#include "identity.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef ETC
#define ETC "/etc"
#endif
#ifndef VAR
#define VAR "/var"
#endif
#ifndef ROOT_HOME
#define ROOT_HOME "/root"
#endif
#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define BOOT_ID_BYTES 37
#define OWN_BOOT_ID RUN_DIRECTORY "/boot-id"
/* systemd unmounts nothing below /dev */
#ifndef HIDDEN
#define HIDDEN "/dev/.banger"
#endif
#define WHOLE_PROC HIDDEN "/proc"
#define SEED_BYTES 512
/* larger ones than any that people write */
#define MAX_TEXT_BYTES (256u << 10)
#define MAX_PLACED 16

/* host keys placed by this wake, by name */
static char placed_keys[MAX_PLACED][NAME_MAX + 1];
static int placed_count;

static int write_all(int file, const void *bytes, size_t length) {
  const uint8_t *at = bytes;
  while (length > 0) {
    ssize_t written = write(file, at, length);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return -1;
    at += written;
    length -= (size_t)written;
  }
  return 0;
}

static int make_parents(const char *path) {
  char directory[PATH_MAX];
  if (snprintf(directory, sizeof directory, "%s", path) >= (int)sizeof directory) {
    errno = ENAMETOOLONG;
    return -1;
  }
  for (char *slash = strchr(directory + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    if (mkdir(directory, 0755) != 0 && errno != EEXIST) return -1;
    *slash = '/';
  }
  return 0;
}

/* A file that cannot be replaced, because something is mounted on it, is written over. */
static int overwrite(const char *path, const void *bytes, size_t length) {
  int file = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
  if (file < 0) return -1;
  int result = write_all(file, bytes, length), failed = errno;
  close(file);
  errno = failed;
  return result;
}

/* A block of any file system that guests have. */
#define BLOCK_BYTES 4096

/*
 * While nobody can read half of it, what is short is written into the block that is there: another file takes an emulated guest
 * five times as long, and the first of them thirty milliseconds.
 */
static int write_in_place(const char *path, const void *bytes, size_t length, mode_t mode) {
  struct stat found;
  if (!is_still() || length > BLOCK_BYTES) return -1;
  int file = open(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (file < 0) return -1;
  int result = fstat(file, &found);
  /* one with other names, or of another user, is not ours alone; one that is empty has no block */
  int is_ours = result == 0 && S_ISREG(found.st_mode) && found.st_nlink == 1 && found.st_uid == geteuid();
  if (!is_ours || found.st_size == 0 || found.st_size > BLOCK_BYTES) result = -1;
  if (result == 0) result = write_all(file, bytes, length);
  if (result == 0 && (size_t)found.st_size > length) result = ftruncate(file, (off_t)length);
  if (result == 0 && (found.st_mode & 07777) != mode) result = fchmod(file, mode);
  close(file);
  return result;
}

static int replace_file(const char *path, const void *bytes, size_t length, mode_t mode) {
  char fresh[PATH_MAX];
  if (write_in_place(path, bytes, length, mode) == 0) return 0;
  if (snprintf(fresh, sizeof fresh, "%s.banger-new", path) >= (int)sizeof fresh) {
    errno = ENAMETOOLONG;
    return -1;
  }
  unlink(fresh);
  int file = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (file < 0) return -1;
  int result = write_all(file, bytes, length);
  if (result == 0) result = fchmod(file, mode);
  int failed = errno;
  close(file);
  if (result == 0) {
    if (rename(fresh, path) == 0) return 0;
    failed = errno;
    if (failed == EBUSY && overwrite(path, bytes, length) == 0) result = 0;
    else result = -1;
  }
  unlink(fresh);
  errno = failed;
  return result;
}

static void note_host_key(const char *path) {
  static const char directory[] = ETC "/ssh/";
  if (strncmp(path, directory, sizeof directory - 1) != 0) return;
  const char *name = path + sizeof directory - 1;
  if (strncmp(name, "ssh_host_", 9) != 0 || placed_count == MAX_PLACED || strlen(name) > NAME_MAX) return;
  strcpy(placed_keys[placed_count++], name);
}

int place_file(const struct field *field) {
  const char *path = (const char *)field->bytes;
  size_t path_length = strnlen(path, field->length);
  errno = EINVAL;
  if (path_length == field->length || path_length == 0 || path[0] != '/') return -1;
  const char *mode = path + path_length + 1;
  size_t left = field->length - path_length - 1, mode_length = strnlen(mode, left);
  if (mode_length == left || mode_length == 0 || mode_length > 4) return -1;
  const char *content = mode + mode_length + 1;
  if (make_parents(path) < 0) return -1;
  note_host_key(path);
  return replace_file(path, content, left - mode_length - 1, (mode_t)strtoul(mode, NULL, 8) & 0777);
}

int remove_old_host_keys(void) {
  int removed = 0;
  int directory_fd = open(ETC "/ssh", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *directory = placed_count > 0 && directory_fd >= 0 ? fdopendir(directory_fd) : NULL;
  if (!directory) {
    if (directory_fd >= 0) close(directory_fd);
    placed_count = 0;
    return 0;
  }
  for (struct dirent *entry; (entry = readdir(directory));) {
    if (strncmp(entry->d_name, "ssh_host_", 9) != 0) continue;
    int ours = 0;
    for (int at = 0; at < placed_count; at++) ours |= strcmp(entry->d_name, placed_keys[at]) == 0;
    if (!ours && unlinkat(directory_fd, entry->d_name, 0) == 0) removed++;
  }
  closedir(directory);
  placed_count = 0;
  return removed;
}

/* A whole text file, to be freed; empty when there is none. */
static char *read_text(const char *path) {
  char *text = malloc(MAX_TEXT_BYTES);
  if (!text) die("memory");
  if (read_file(path, text, MAX_TEXT_BYTES) < 0) text[0] = 0;
  return text;
}

static mode_t mode_of(const char *path, mode_t otherwise) {
  struct stat found;
  return stat(path, &found) == 0 ? found.st_mode & 07777 : otherwise;
}

/* Whether `line` of that length begins with 127.0.1.1 and names it, alone or with others. */
static int is_line_of(const char *line, size_t length, const char *name) {
  char copy[512], *rest = NULL;
  if (length >= sizeof copy) return 0;
  memcpy(copy, line, length);
  copy[length] = 0;
  char *word = strtok_r(copy, " \t", &rest);
  if (!word || strcmp(word, "127.0.1.1") != 0) return 0;
  while ((word = strtok_r(NULL, " \t", &rest)))
    if (strcmp(word, name) == 0) return 1;
  return 0;
}

static int rename_in_hosts(const char *before, const char *name) {
  char *text = read_text(ETC "/hosts"), line[512];
  struct buffer hosts = {0};
  int found = 0;
  for (char *at = text; *at;) {
    size_t length = strcspn(at, "\n");
    int has_end = at[length] == '\n';
    found |= is_line_of(at, length, name);
    if (strcmp(before, name) == 0 || !is_line_of(at, length, before)) {
      buffer_append(&hosts, at, length);
      buffer_append(&hosts, "\n", 1);
    }
    at += length + (size_t)has_end;
  }
  if (!found) {
    snprintf(line, sizeof line, "127.0.1.1 %s\n", name);
    buffer_append(&hosts, line, strlen(line));
  }
  mode_t mode = mode_of(ETC "/hosts", 0644);
  int result = replace_file(ETC "/hosts", buffer_start(&hosts), buffer_length(&hosts), mode), failed = errno;
  buffer_clear(&hosts);
  free(text);
  errno = failed;
  return result;
}

int set_hostname(const char *name) {
  struct utsname before;
  char line[300];
  if (uname(&before) != 0) return -1;
  if (sethostname(name, strlen(name)) != 0) return -1;
  snprintf(line, sizeof line, "%s\n", name);
  if (replace_file(ETC "/hostname", line, strlen(line), 0644) < 0) return -1;
  return rename_in_hosts(before.nodename, name);
}

int set_machine_id(const char *id) {
  char line[64];
  struct stat found;
  snprintf(line, sizeof line, "%.32s\n", id);
  if (replace_file(ETC "/machine-id", line, strlen(line), 0444) < 0) return -1;
  /* where D-Bus has no link to it but a copy */
  if (lstat(VAR "/lib/dbus/machine-id", &found) != 0 || !S_ISREG(found.st_mode)) return 0;
  return replace_file(VAR "/lib/dbus/machine-id", line, strlen(line), found.st_mode & 0777);
}

/*
 * A user in a namespace of its own may mount no /proc where every one that it sees is covered in a place: there is another one
 * that is not, where nobody looks.
 */
static void keep_whole_proc(void) {
  struct stat there, above;
  mkdir(HIDDEN, 0700);
  mkdir(WHOLE_PROC, 0700);
  if (stat(WHOLE_PROC, &there) != 0 || stat(HIDDEN, &above) != 0 || there.st_dev != above.st_dev) return;
  mount("proc", WHOLE_PROC, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

static int is_covered(void) {
  struct stat ours, seen;
  return stat(OWN_BOOT_ID, &ours) == 0 && stat(BOOT_ID, &seen) == 0 && ours.st_dev == seen.st_dev && ours.st_ino == seen.st_ino;
}

static int cover(const char *line) {
  if (replace_file(OWN_BOOT_ID, line, strlen(line), 0444) < 0) return -1;
  keep_whole_proc();
  /* of one that was replaced */
  umount2(BOOT_ID, MNT_DETACH);
  if (mount(OWN_BOOT_ID, BOOT_ID, NULL, MS_BIND, NULL) != 0) return -1;
  return mount(NULL, BOOT_ID, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

void cover_boot_id(void) {
  char line[64];
  if (!is_covered() && read_file(BOOT_ID, line, sizeof line) == BOOT_ID_BYTES) cover(line);
}

int set_boot_id(const char *id) {
  char line[64];
  snprintf(line, sizeof line, "%.36s\n", id);
  if (!is_covered()) return cover(line);
  /* as long as the one before: whoever reads it meanwhile has either */
  int file = open(OWN_BOOT_ID, O_WRONLY | O_CLOEXEC);
  if (file < 0) return -1;
  int result = write_all(file, line, strlen(line)), failed = errno;
  close(file);
  errno = failed;
  return result;
}

int add_authorized_key(const char *line) {
  static const char path[] = ROOT_HOME "/.ssh/authorized_keys";
  if (mkdir(ROOT_HOME "/.ssh", 0700) != 0 && errno != EEXIST) return -1;
  char *text = read_text(path);
  size_t length = strlen(line);
  for (char *at = text; *at;) {
    size_t this = strcspn(at, "\n");
    if (this == length && memcmp(at, line, length) == 0) {
      free(text);
      return 0;
    }
    at += this + (at[this] == '\n');
  }
  struct buffer keys = {0};
  buffer_append(&keys, text, strlen(text));
  if (*text && text[strlen(text) - 1] != '\n') buffer_append(&keys, "\n", 1);
  buffer_append(&keys, line, length);
  buffer_append(&keys, "\n", 1);
  int result = replace_file(path, buffer_start(&keys), buffer_length(&keys), mode_of(path, 0600)), failed = errno;
  buffer_clear(&keys);
  free(text);
  errno = failed;
  return result;
}

static const char *const seed_files[] = {VAR "/lib/systemd/random-seed", VAR "/lib/urandom/random-seed",
                                         VAR "/lib/misc/random-seed", VAR "/lib/seedrng/seed.credit", NULL};

void read_identity(void) {
  static const char *const others[] = {ETC "/hostname",
                                       ETC "/hosts",
                                       ETC "/resolv.conf",
                                       ETC "/machine-id",
                                       ETC "/ssh/ssh_host_ed25519_key",
                                       ETC "/ssh/ssh_host_ed25519_key.pub",
                                       ROOT_HOME "/.ssh/authorized_keys",
                                       NULL};
  static const char *const *const lists[] = {others, seed_files};
  for (size_t list = 0; list < sizeof lists / sizeof *lists; list++) {
    for (const char *const *path = lists[list]; *path; path++) {
      char byte;
      /* whatever stands there must not be waited for */
      int file = open(*path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
      ssize_t length = file < 0 ? 0 : read(file, &byte, 1);
      (void)length;
      if (file >= 0) close(file);
    }
  }
}

int renew_random_seeds(void) {
  uint8_t seed[SEED_BYTES];
  int written = 0;
  for (const char *const *path = seed_files; *path; path++) {
    if (access(*path, F_OK) != 0) continue;
    if (getrandom(seed, sizeof seed, 0) != (ssize_t)sizeof seed) return -1;
    if (replace_file(*path, seed, sizeof seed, 0600) < 0) return -1;
    written++;
  }
  memset(seed, 0, sizeof seed);
  return written;
}
