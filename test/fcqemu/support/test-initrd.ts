/**
 * An initrd for real guests: the bundle's own with an archive behind it that brings a shell, the virtio
 * modules and a script to run. The kernel unpacks such archives one after the other.
 */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';

/** Loaded in this order, as far as they exist and are not built in. */
const MODULES = [
  ...['virtio_ring', 'virtio', 'virtio_mmio', 'virtio_blk', 'failover', 'net_failover', 'virtio_net'],
  ...['virtio_console', 'rng-core', 'virtio-rng', 'virtio_balloon'],
  ...['vsock', 'vmw_vsock_virtio_transport_common', 'vsock_loopback'],
];

/** Tells the kernel to run the script instead of the bundle's init. */
export const TEST_INIT_ARGUMENT = 'rdinit=/fcqemu/init';

/** A bundle directory with `vmlinux` and `initrd.img`; undefined when none was named. */
export function testBundle(): string | undefined {
  return process.env.BANGER_TEST_BUNDLE || undefined;
}

/** Why no real guest can be booted here; undefined when one can. */
export function bundleSkipReason(): string | undefined {
  const bundle = testBundle();
  if (!bundle) return 'BANGER_TEST_BUNDLE names no bundle directory';
  for (const file of ['vmlinux', 'initrd.img']) {
    if (!existsSync(join(bundle, file))) return `${bundle} has no ${file}`;
  }
  return undefined;
}

/**
 * @param script shell commands; `busybox` applets are available as such
 * @param programs by their names in /fcqemu
 */
export function testInitrd(bundle: string, script: string, programs: Record<string, Buffer> = {}): Buffer {
  const shell = '/bin/busybox'; // the bundle's own
  const modules = MODULES.flatMap((name) => globSync(`${bundle}/modules/*/kernel/**/${name}.ko`).slice(0, 1));
  const init = `#!${shell} sh
B=${shell}
$B mkdir -p /proc /sys /dev /tmp /bin
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
$B --install -s /bin; PATH=/bin
for m in ${MODULES.join(' ')}; do
  f=/fcqemu/modules/$m.ko; [ -e $f ] || f=$(find /lib/modules -name $m.ko 2>/dev/null | head -n 1)
  [ -n "$f" ] && [ -e "$f" ] && insmod $f 2>/dev/null
done
echo "guest up after $(cut -d' ' -f1 /proc/uptime) s"
${script}
`;
  const archive = [
    directory('fcqemu'),
    directory('fcqemu/modules'),
    file('fcqemu/init', Buffer.from(init), 0o755),
    ...modules.map((path) => file(`fcqemu/modules/${basename(path)}`, readFileSync(path), 0o644)),
    ...Object.entries(programs).map(([name, content]) => file(`fcqemu/${name}`, content, 0o755)),
    entry('TRAILER!!!', 0, Buffer.alloc(0)),
  ];
  const own = readFileSync(join(bundle, 'initrd.img'));
  return Buffer.concat([own, Buffer.alloc(-own.length & 3), ...archive]);
}

function directory(name: string): Buffer {
  return entry(name, 0o040755, Buffer.alloc(0));
}

function file(name: string, content: Buffer, mode: number): Buffer {
  return entry(name, 0o100000 | mode, content);
}

/** One member of a cpio archive in the "newc" format. */
function entry(name: string, mode: number, content: Buffer): Buffer {
  const fields = [0, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length + 1, 0];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}${name}\0`;
  const padded = (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
  return Buffer.concat([padded(Buffer.from(header, 'latin1')), padded(content)]);
}
