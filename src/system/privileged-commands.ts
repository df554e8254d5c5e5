/**
 * Every command banger runs as root, in one table: preflight asks sudo about each, and the sudoers rules are
 * written from it. A command that is not here is refused to users who installed those rules.
 */

/** Programs of the configuration, and some that are not configured. */
export type PrivilegedProgram = 'ip' | 'nft' | 'sysctl' | 'firecracker' | 'kill' | 'chown' | StorageProgram;

/** Programs of `banger storage init`, under the names they always have. */
export type StorageProgram = 'mount' | 'umount' | 'losetup' | 'xfs_growfs';

export const STORAGE_PROGRAMS: readonly StorageProgram[] = ['mount', 'umount', 'losetup', 'xfs_growfs'];

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
  /** only where Firecracker runs as root because the user may not open /dev/kvm */
  onlyWithoutKvmAccess?: true;
  /** only for a store that lies in an image, see `banger storage init` */
  onlyForStoreImage?: true;
}

export const PRIVILEGED_COMMANDS: readonly PrivilegedCommand[] = [
  { program: 'ip', args: 'tuntap add dev {tap} mode tap user {uid}' },
  { program: 'ip', args: 'link set dev {tap} addrgenmode none' },
  { program: 'ip', args: 'address add {gateway}/32 dev {tap}' },
  { program: 'ip', args: 'link set dev {tap} address {hostMac} mtu {mtu} up' },
  { program: 'ip', args: 'route replace {address}/32 dev {tap} src {gateway}' },
  { program: 'ip', args: 'neighbour replace {address} lladdr {mac} dev {tap} nud permanent' },
  { program: 'ip', args: 'link delete dev {tap}' },
  { program: 'ip', args: 'route replace unreachable {pool} proto 119' },
  { program: 'ip', args: 'route delete unreachable {pool} proto 119' },
  { program: 'ip', args: 'rule add to {pool} lookup main priority 1 protocol 119' },
  { program: 'ip', args: 'rule delete to {pool} lookup main priority 1 protocol 119' },
  { program: 'nft', args: '-f -' },
  { program: 'nft', args: '-j list table inet {table}' },
  { program: 'nft', args: '-j list table arp {table}' },
  { program: 'nft', args: '-j list ruleset' },
  { program: 'sysctl', args: '-q -w net/ipv4/conf/{tap}/forwarding={flag}' },
  { program: 'sysctl', args: '-q -w net/ipv4/conf/{uplink}/forwarding={flag}' },
  {
    program: 'firecracker',
    args: '--api-sock {run}/vmm/{vm}.sock --id banger-{vm} --log-path {store}/vms/{vm}/vmm.log',
    onlyWithoutKvmAccess: true,
  },
  {
    program: 'firecracker',
    args: '--no-api --config-file {cache}/self-test-{vm}.json',
    onlyWithoutKvmAccess: true,
  },
  // what hangs of the above, and Firecracker
  { program: 'kill', args: '-TERM {pid}' },
  { program: 'kill', args: '-KILL {pid}' },
  { program: 'chown', args: '{uid} {run}/vmm/{vm}.sock', onlyWithoutKvmAccess: true },
  { program: 'mount', args: '-t xfs -o loop,discard,nosuid,nodev {state}/store.xfs {store}', onlyForStoreImage: true },
  {
    program: 'mount',
    args: '-t xfs -o loop,discard,nosuid,nodev {state}/store.xfs {store}.filling',
    onlyForStoreImage: true,
  },
  { program: 'umount', args: '{store}', onlyForStoreImage: true },
  { program: 'umount', args: '{store}.filling', onlyForStoreImage: true },
  { program: 'losetup', args: '-c /dev/loop{loop}', onlyForStoreImage: true },
  { program: 'xfs_growfs', args: '{store}', onlyForStoreImage: true },
];

/** A tap no VM has: ids are random, and this one is never given out knowingly. */
export const SAMPLE_TAP = 'bgr-00000000';

/** Arguments with each placeholder replaced, e.g. to ask sudo about one example of a command. */
export function fillArguments(args: string, example: (placeholder: Placeholder) => string): string {
  return args.replace(/\{(\w+)\}/g, (_, name: string) => example(name as Placeholder));
}
