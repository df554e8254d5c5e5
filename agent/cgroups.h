/* Where control groups are, for those who look into them. */
#ifndef CGROUPS_H
#define CGROUPS_H

#ifndef GROUPS
#define GROUPS "/sys/fs/cgroup"
#endif
/* of commands the host runs; no unit of systemd's has such a name */
#define COMMANDS_GROUP GROUPS "/banger-commands"
/* this program's own, which is never frozen */
#define AGENT_GROUP_NAME "banger-agent"

/* Whether the one hierarchy of today is mounted. */
int has_groups(void);

#endif
