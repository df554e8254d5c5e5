/* Grows a mounted file system to the size of its device, as resize2fs, xfs_growfs and `btrfs filesystem resize max` do. */
#include "grow.h"
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Linux, include/uapi/linux/magic.h */
#define EXT4_MAGIC 0xef53
#define XFS_MAGIC 0x58465342
#define BTRFS_MAGIC 0x9123683e

/* Linux, include/uapi/linux/fs.h */
#define BLKGETSIZE64 _IOR(0x12, 114, size_t)

/* Linux, include/uapi/linux/ext4.h: takes the new number of blocks */
#define EXT4_RESIZE _IOW('f', 16, uint64_t)

/* Linux, include/uapi/linux/mount.h */
#define FSPICK_CLOEXEC 1
#define FSCONFIG_SET_FLAG 0
#define FSCONFIG_CMD_RECONFIGURE 7

/* Linux, fs/xfs/libxfs/xfs_fs.h: the first version of both, which every kernel knows */
struct xfs_geometry {
  uint32_t blocksize, rtextsize, agblocks, agcount, logblocks, sectsize, inodesize, imaxpct;
  uint64_t datablocks, rtblocks, rtextents, logstart;
  unsigned char uuid[16];
  uint32_t sunit, swidth;
  int32_t version;
  uint32_t flags, logsectsize, rtsectsize, dirblocksize;
};
struct xfs_growth {
  uint64_t newblocks;
  uint32_t imaxpct;
};
#define XFS_GEOMETRY _IOR('X', 100, struct xfs_geometry)
#define XFS_GROW _IOW('X', 110, struct xfs_growth)

/* Linux, include/uapi/linux/btrfs.h */
struct btrfs_arguments {
  int64_t fd;
  char name[4088];
};
#define BTRFS_RESIZE _IOW(0x94, 3, struct btrfs_arguments)

static int size_of(const char *device, uint64_t *bytes) {
  int fd = open(device, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  int failed = ioctl(fd, BLKGETSIZE64, bytes);
  close(fd);
  return failed;
}

/* What a mounted file system was told is changed in nothing but this; a kernel that cannot do that leaves it. */
static void set_flag(const char *point, const char *flag) {
  int fd = (int)syscall(SYS_fspick, AT_FDCWD, point, FSPICK_CLOEXEC);
  if (fd < 0) return;
  if (syscall(SYS_fsconfig, fd, FSCONFIG_SET_FLAG, flag, NULL, 0) == 0)
    syscall(SYS_fsconfig, fd, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0);
  close(fd);
}

/* The disk was grown by a hole, which reads as zeros: with `noinit_itable` the kernel would write zeros into the new inode
 * tables now, and with `init_itable` later; one after the other it never does. */
static int grow_ext4(const char *device, const char *point, int at, uint64_t block_bytes) {
  uint64_t bytes = 0;
  if (block_bytes == 0 || size_of(device, &bytes) != 0) return -1;
  uint64_t blocks = bytes / block_bytes;
  set_flag(point, "init_itable");
  int failed = ioctl(at, EXT4_RESIZE, &blocks);
  int reason = errno;
  set_flag(point, "noinit_itable");
  errno = reason;
  return failed;
}

static int grow_xfs(const char *device, int at) {
  struct xfs_geometry geometry;
  memset(&geometry, 0, sizeof geometry);
  uint64_t bytes = 0;
  if (size_of(device, &bytes) != 0) return -1;
  if (ioctl(at, XFS_GEOMETRY, &geometry) != 0 || geometry.blocksize == 0) return -1;
  struct xfs_growth growth = {.newblocks = bytes / geometry.blocksize, .imaxpct = geometry.imaxpct};
  if (growth.newblocks <= geometry.datablocks) return 0;
  return ioctl(at, XFS_GROW, &growth);
}

static int grow_btrfs(int at) {
  static struct btrfs_arguments arguments = {.name = "max"};
  return ioctl(at, BTRFS_RESIZE, &arguments);
}

int grow(const char *device, const char *point) {
  struct statfs found;
  int at = open(point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int failed = at < 0 || fstatfs(at, &found) != 0;
  if (!failed && (uint32_t)found.f_type == EXT4_MAGIC)
    failed = grow_ext4(device, point, at, (uint64_t)found.f_bsize) != 0;
  else if (!failed && (uint32_t)found.f_type == XFS_MAGIC) failed = grow_xfs(device, at) != 0;
  else if (!failed && (uint32_t)found.f_type == BTRFS_MAGIC) failed = grow_btrfs(at) != 0;
  if (failed) perror(point);
  if (at >= 0) close(at);
  return failed ? 1 : 0;
}
