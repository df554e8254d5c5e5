/**
 * Every command banger asks sudo for, in one table with the right it takes: preflight asks sudo about each, and the sudoers
 * rules are written from it. A command that is not here is refused to users who installed those rules.
 */

/** Programs of the configuration, and some that are not configured. */
export type PrivilegedProgram = 'ip' | 'nft' | 'sysctl' | 'firecracker' | StorageProgram;

/** Programs of `banger storage init`, and what ends them when they hang, under the names they always have. */
export type StorageProgram = 'mount' | 'umount' | 'losetup' | 'xfs_growfs' | 'kill';

export const STORAGE_PROGRAMS: readonly StorageProgram[] = ['mount', 'umount', 'losetup', 'xfs_growfs', 'kill'];

/**
 * What a program is given that this user does not have. `network` and `kvm` are given to a process of the user's own, without
 * root's files and without a way to more; `root` is everything.
 */
export type Right = 'network' | 'kvm' | 'root';

/** What stands in the place of a value that differs from call to call. */
export type Placeholder =
  /** host network device of a VM, `bgr-` and 8 hexadecimal digits */
  | 'tap'
  /** address of a VM, in the pool */
  | 'address'
  /** first address of the pool */
  | 'gateway'
  /** the pool in CIDR notation */
  | 'pool'
  | 'mac'
  | 'hostMac'
  | 'mtu'
  /** user who may open a tap: the daemon's */
  | 'uid'
  /** nftables table of this banger */
  | 'table'
  /** network device that leads outside */
  | 'uplink'
  /** 0, 1 or 2 */
  | 'flag'
  | 'pid'
  /** id of a VM, 8 hexadecimal digits */
  | 'vm'
  /** run directory */
  | 'run'
  /** store directory */
  | 'store'
  /** cache directory */
  | 'cache'
  /** state directory */
  | 'state'
  /** number of a loop device */
  | 'loop';

export interface PrivilegedCommand {
  program: PrivilegedProgram;
  /** arguments separated by single spaces, values as `{placeholder}` */
  args: string;
  /** `kvm`: only where the user may not open /dev/kvm; `root`: only for a store in an image, see `banger storage init` */
  right: Right;
}

const NETWORK: readonly [program: 'ip' | 'nft' | 'sysctl', args: string][] = [
  ['ip', 'tuntap add dev {tap} mode tap user {uid}'],
  ['ip', 'link set dev {tap} addrgenmode none'],
  ['ip', 'address add {gateway}/32 dev {tap}'],
  ['ip', 'link set dev {tap} address {hostMac} mtu {mtu} up'],
  ['ip', 'route replace {address}/32 dev {tap} src {gateway}'],
  ['ip', 'neighbour replace {address} lladdr {mac} dev {tap} nud permanent'],
  ['ip', 'link delete dev {tap}'],
  ['ip', 'route replace unreachable {pool} proto 119'],
  ['ip', 'route delete unreachable {pool} proto 119'],
  ['ip', 'rule add to {pool} lookup main priority 1 protocol 119'],
  ['ip', 'rule delete to {pool} lookup main priority 1 protocol 119'],
  ['nft', '-f -'],
  ['nft', '-j list table inet {table}'],
  ['nft', '-j list table arp {table}'],
  ['nft', '-j list ruleset'],
  ['sysctl', '-q -w net/ipv4/conf/{tap}/forwarding={flag}'],
  ['sysctl', '-q -w net/ipv4/conf/{uplink}/forwarding={flag}'],
];

const KVM: readonly string[] = [
  '--api-sock {run}/vmm/{vm}.sock --id banger-{vm} --log-path {store}/vms/{vm}/vmm.log',
  '--no-api --config-file {cache}/self-test-{vm}.json',
];

const STORAGE: readonly [program: StorageProgram, args: string][] = [
  ['mount', '-t xfs -o loop,discard,nosuid,nodev {state}/store.xfs {store}'],
  ['mount', '-t xfs -o loop,discard,nosuid,nodev {state}/store.xfs {store}.filling'],
  ['umount', '{store}'],
  ['umount', '{store}.filling'],
  ['losetup', '-c /dev/loop{loop}'],
  ['xfs_growfs', '{store}'],
  // what hangs of them
  ['kill', '-TERM {pid}'],
  ['kill', '-KILL {pid}'],
];

export const PRIVILEGED_COMMANDS: readonly PrivilegedCommand[] = [
  ...NETWORK.map(([program, args]): PrivilegedCommand => ({ program, args, right: 'network' })),
  ...KVM.map((args): PrivilegedCommand => ({ program: 'firecracker', args, right: 'kvm' })),
  ...STORAGE.map(([program, args]): PrivilegedCommand => ({ program, args, right: 'root' })),
];

/** The user of the daemon. */
export interface Owner {
  uid: number;
  gid: number;
  /** group that may open /dev/kvm; undefined where that is root's, or there is none */
  kvmGroup: number | undefined;
}

/** Sets users, groups and capabilities before it becomes another program (util-linux). */
export const LOWERER = 'setpriv';

/**
 * Arguments of `setpriv` before the program and its own: the user's process again, with one capability or one group more, and
 * without a way to others. Root's files stay closed to it, whatever it is told to read or write.
 */
export function lowerTo(right: 'network' | 'kvm', { uid, gid, kvmGroup }: Owner): string[] {
  const capabilities = right === 'network' ? '-all,+net_admin' : '-all';
  return [
    ...[`--reuid=${uid}`, `--regid=${gid}`],
    right === 'kvm' && kvmGroup !== undefined ? `--groups=${kvmGroup}` : '--clear-groups',
    ...[`--inh-caps=${capabilities}`, `--ambient-caps=${capabilities}`, `--bounding-set=${capabilities}`],
    ...['--no-new-privs', '--'],
  ];
}

/** A tap no VM has: ids are random, and this one is never given out knowingly. */
export const SAMPLE_TAP = 'bgr-00000000';

/** Arguments with each placeholder replaced, e.g. to ask sudo about one example of a command. */
export function fillArguments(args: string, example: (placeholder: Placeholder) => string): string {
  return args.replace(/\{(\w+)\}/g, (_, name: string) => example(name as Placeholder));
}
