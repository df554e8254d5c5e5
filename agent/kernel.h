/* What the kernel's headers say, which musl's are without: numbers and layouts that never change. */
#ifndef KERNEL_H
#define KERNEL_H

#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* linux/vm_sockets.h */
#define CID_ANY 0xffffffffu
#define CID_HOST 2
struct vsock_address {
  sa_family_t family;
  uint16_t reserved;
  uint32_t port;
  uint32_t cid;
  uint8_t flags;
  uint8_t zero[3];
};

/* linux/random.h */
#define RNDADDENTROPY _IOW('R', 0x03, int[2])
#define RNDRESEEDCRNG _IO('R', 0x07)

/* linux/sched.h */
#define CLONE_INTO_CGROUP 0x200000000ull
struct clone_arguments {
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* linux/netlink.h */
#define NETLINK_ROUTE 0
#define NETLINK_SOCK_DIAG 4
#define NLM_F_REQUEST 1
#define NLM_F_ACK 4
#define NLM_F_REPLACE 0x100
#define NLM_F_CREATE 0x400
#define NLM_F_DUMP 0x300
#define NLMSG_ERROR 2
#define NLMSG_DONE 3
struct netlink_address {
  sa_family_t family;
  uint16_t pad;
  uint32_t pid, groups;
};
struct netlink_header {
  uint32_t length;
  uint16_t type, flags;
  uint32_t sequence, pid;
};
struct attribute {
  uint16_t length, type;
};

/* linux/rtnetlink.h */
#define RTM_NEWLINK 16
#define RTM_NEWADDR 20
#define RTM_DELADDR 21
#define RTM_GETADDR 22
#define RTM_NEWROUTE 24
#define RTM_DELNEIGH 29
#define RTM_GETNEIGH 30
#define IFLA_ADDRESS 1
#define IFLA_MTU 4
#define IFA_ADDRESS 1
#define IFA_LOCAL 2
#define RTA_DST 1
#define RTA_OIF 4
#define RTA_GATEWAY 5
#define NDA_DST 1
#define NUD_PERMANENT 0x80
#define NUD_NOARP 0x40
#define RT_TABLE_MAIN 254
#define RTPROT_BOOT 3
#define RT_SCOPE_UNIVERSE 0
#define RT_SCOPE_LINK 253
#define RTN_UNICAST 1
struct link_message {
  uint8_t family, pad;
  uint16_t type;
  int32_t index;
  uint32_t flags, change;
};
struct address_message {
  uint8_t family, prefix_length, flags, scope;
  uint32_t index;
};
struct route_message {
  uint8_t family, destination_length, source_length, tos, table, protocol, scope, type;
  uint32_t flags;
};
struct neighbour_message {
  uint8_t family, pad1;
  uint16_t pad2;
  int32_t index;
  uint16_t state;
  uint8_t flags, type;
};

/* linux/inet_diag.h, linux/sock_diag.h */
#define SOCK_DIAG_BY_FAMILY 20
#define SOCK_DESTROY 21
#define TCP_LISTEN 10
struct diag_id {
  uint16_t source_port, destination_port; /* big endian */
  uint32_t source[4], destination[4];
  uint32_t interface, cookie[2];
};
struct diag_request {
  uint8_t family, protocol, extensions, pad;
  uint32_t states;
  struct diag_id id;
};
struct diag_message {
  uint8_t family, state, timer, retransmissions;
  struct diag_id id;
  uint32_t expires, receive_queue, send_queue, uid, inode;
};

#endif
