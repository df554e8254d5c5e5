/**
 * Every command: its names, its summary and where it lives. The table is all that is read before the
 * one command that was asked for is loaded.
 */
import type { Entry } from './entry.ts';

const daily = 'Daily commands';
const setup = 'Setting up and looking';

export const REGISTRY: readonly Entry[] = [
  {
    path: 'run',
    aliases: ['vm run'],
    summary: 'Start a VM, creating it first when it does not exist',
    group: daily,
    load: () => import('./commands/run.ts'),
  },
  {
    path: 'vm list',
    aliases: ['ls', 'vm ls'],
    summary: 'List the VMs',
    group: daily,
    load: () => import('./commands/vm-list.ts'),
  },
  {
    path: 'vm create',
    aliases: ['create'],
    summary: 'Create a VM without starting it',
    group: daily,
    load: () => import('./commands/vm-create.ts'),
  },
  {
    path: 'vm start',
    aliases: ['start'],
    summary: 'Start VMs and wait until they answer',
    group: daily,
    load: () => import('./commands/vm-start.ts'),
  },
  {
    path: 'vm stop',
    aliases: ['stop'],
    summary: 'Shut VMs down; their disks stay',
    group: daily,
    load: () => import('./commands/vm-stop.ts'),
  },
  {
    path: 'vm restart',
    aliases: ['restart'],
    summary: 'Stop VMs and start them again',
    group: daily,
    load: () => import('./commands/vm-restart.ts'),
  },
  {
    path: 'ssh',
    aliases: ['vm ssh'],
    summary: 'Log in to a VM',
    group: daily,
    load: () => import('./commands/ssh.ts'),
  },
  {
    path: 'exec',
    aliases: ['vm exec'],
    summary: 'Run one command in a VM',
    group: daily,
    load: () => import('./commands/exec.ts'),
  },
  {
    path: 'cp',
    aliases: ['vm cp'],
    summary: 'Copy files to, from and between VMs',
    group: daily,
    load: () => import('./commands/cp.ts'),
  },
  {
    path: 'vm logs',
    aliases: ['logs'],
    summary: "Show a VM's console",
    group: daily,
    load: () => import('./commands/vm-logs.ts'),
  },
  {
    path: 'vm show',
    aliases: ['show'],
    summary: 'Show everything about a VM, with its boot timeline',
    group: daily,
    load: () => import('./commands/vm-show.ts'),
  },
  {
    path: 'vm kill',
    aliases: ['kill'],
    summary: 'End VMs at once, as if their power was cut',
    group: daily,
    load: () => import('./commands/vm-kill.ts'),
  },
  {
    path: 'vm delete',
    aliases: ['rm', 'vm rm'],
    summary: 'Delete VMs and their disks',
    group: daily,
    load: () => import('./commands/vm-delete.ts'),
  },
  {
    path: 'bundle build',
    aliases: [],
    summary: 'Build a runtime bundle from Debian packages',
    load: () => import('./commands/bundle-build.ts'),
  },
  {
    path: 'bundle list',
    aliases: ['bundle ls'],
    summary: 'List the runtime bundles',
    load: () => import('./commands/bundle-list.ts'),
  },
  {
    path: 'bundle show',
    aliases: [],
    summary: 'Show everything about a runtime bundle',
    load: () => import('./commands/bundle-show.ts'),
  },
  {
    path: 'bundle use',
    aliases: [],
    summary: 'Choose the runtime bundle VMs boot from unless told otherwise',
    load: () => import('./commands/bundle-use.ts'),
  },
  {
    path: 'bundle verify',
    aliases: [],
    summary: 'Check the sums of a runtime bundle and whether it can boot here',
    load: () => import('./commands/bundle-verify.ts'),
  },
  {
    path: 'bundle import',
    aliases: [],
    summary: 'Bring in a runtime bundle made elsewhere',
    load: () => import('./commands/bundle-import.ts'),
  },
  {
    path: 'bundle export',
    aliases: [],
    summary: 'Write a runtime bundle as one file',
    load: () => import('./commands/bundle-export.ts'),
  },
  {
    path: 'bundle adopt',
    aliases: [],
    summary: 'Write the bundle.json of a directory that has none',
    load: () => import('./commands/bundle-adopt.ts'),
  },
  {
    path: 'dns status',
    aliases: [],
    summary: 'Show who answers for names of VMs, and every record',
    load: () => import('./commands/dns-status.ts'),
  },
  {
    path: 'dns setup',
    aliases: [],
    summary: "Have this host's resolver find VMs by name",
    load: () => import('./commands/dns-setup.ts'),
  },
  {
    path: 'ssh-config',
    aliases: [],
    summary: 'Let ssh, scp, rsync and editors reach VMs by name',
    group: setup,
    load: () => import('./commands/ssh-config.ts'),
  },
  {
    path: 'ssh-proxy',
    aliases: [],
    summary: 'Carry an ssh connection to a VM',
    load: () => import('./commands/ssh-proxy.ts'),
  },
  {
    path: 'operation list',
    aliases: ['operation ls'],
    summary: 'List recent operations, newest first',
    load: () => import('./commands/operation-list.ts'),
  },
  {
    path: 'operation show',
    aliases: [],
    summary: 'Show one operation',
    load: () => import('./commands/operation-show.ts'),
  },
  {
    path: 'operation wait',
    aliases: [],
    summary: 'Follow an operation until it ends',
    load: () => import('./commands/operation-wait.ts'),
  },
  {
    path: 'operation cancel',
    aliases: [],
    summary: 'Stop an operation and undo what it did',
    load: () => import('./commands/operation-cancel.ts'),
  },
  {
    path: 'daemon status',
    aliases: [],
    summary: 'Show whether the daemon runs, and how',
    load: () => import('./commands/daemon-status.ts'),
  },
  {
    path: 'daemon start',
    aliases: [],
    summary: 'Start the daemon; every command that needs it does so too',
    load: () => import('./commands/daemon-start.ts'),
  },
  {
    path: 'daemon stop',
    aliases: [],
    summary: 'Stop the daemon; VMs keep running',
    load: () => import('./commands/daemon-stop.ts'),
  },
  {
    path: 'daemon run',
    aliases: [],
    summary: 'Be the daemon, in the foreground',
    load: () => import('./commands/daemon-run.ts'),
  },
  {
    path: 'config show',
    aliases: [],
    summary: 'Show every setting and where it comes from',
    load: () => import('./commands/config-show.ts'),
  },
  {
    path: 'config check',
    aliases: [],
    summary: 'Look for mistakes in the configuration',
    load: () => import('./commands/config-check.ts'),
  },
  {
    path: 'doctor',
    aliases: [],
    summary: 'Check whether this machine can run VMs, and say what to do',
    group: setup,
    load: () => import('./commands/doctor.ts'),
  },
  {
    path: 'completion',
    aliases: [],
    summary: 'Print a completion script for bash, zsh or fish',
    group: setup,
    load: () => import('./commands/completion.ts'),
  },
  {
    path: 'version',
    aliases: [],
    summary: 'Show the versions of client and daemon',
    group: setup,
    load: () => import('./commands/version.ts'),
  },
];

/** The command whose name the words begin with, the longest first. */
export function findEntry(words: readonly string[]): { entry: Entry; typed: string; rest: string[] } | undefined {
  for (const length of [2, 1]) {
    const typed = words.slice(0, length).join(' ');
    const entry = REGISTRY.find((candidate) => candidate.path === typed || candidate.aliases.includes(typed));
    if (entry && words.length >= length) return { entry, typed, rest: words.slice(length) };
  }
  return undefined;
}
