/* Grows a mounted XFS or btrfs to the size of its device, as xfs_growfs and `btrfs filesystem resize max` do. */
#include "grow.h"
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <unistd.h>

/* Linux, include/uapi/linux/magic.h */
#define XFS_MAGIC 0x58465342
#define BTRFS_MAGIC 0x9123683e

/* Linux, include/uapi/linux/fs.h */
#define BLKGETSIZE64 _IOR(0x12, 114, size_t)

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

static int grow_xfs(const char *device, int at) {
  struct xfs_geometry geometry;
  memset(&geometry, 0, sizeof geometry);
  uint64_t bytes = 0;
  int fd = open(device, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  int failed = ioctl(fd, BLKGETSIZE64, &bytes);
  close(fd);
  if (failed != 0 || ioctl(at, XFS_GEOMETRY, &geometry) != 0 || geometry.blocksize == 0) return -1;
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
  if (!failed && (uint32_t)found.f_type == XFS_MAGIC) failed = grow_xfs(device, at) != 0;
  else if (!failed && (uint32_t)found.f_type == BTRFS_MAGIC) failed = grow_btrfs(at) != 0;
  if (failed) perror(point);
  if (at >= 0) close(at);
  return failed ? 1 : 0;
}
