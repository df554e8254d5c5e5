/**
 * The agent in a machine of its own, as far as namespaces make one: processes, network, names, mounts. What it changes is
 * changed there; the rest of this machine's files cannot be written from inside.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { lacking } from '../bundle/sample-bundle.ts';
import { agentSkip, behindSocket, type RunningAgent, workDirectory } from './agent-program.ts';

const UNSHARE = [
  '--mount',
  '--net',
  '--uts',
  '--pid',
  '--fork',
  '--mount-proc',
  '--kill-child',
  '--propagation',
  'private',
];

/** Address and name that it has before it is woken as another. */
export const PARENT = { address: '10.9.0.2', gateway: '10.9.0.1', hostname: 'parent', mac: '06:00:0a:09:00:02' };

const SETUP = `set -e
cd "$2"
mount --bind . .
mount --bind etc /etc
mount -o remount,bind,ro /
ip link set lo up
ip link add eth0 type veth peer name host0
ip link set host0 up
ip link set eth0 address ${PARENT.mac} mtu 1400 up
ip addr add ${PARENT.address}/32 dev eth0
ip route add ${PARENT.gateway} dev eth0
ip route add default via ${PARENT.gateway} dev eth0
echo ${PARENT.hostname} > /proc/sys/kernel/hostname
cd "$2"
exec "$1" --listen agent.sock`;

/** Why that cannot be had here; false when it can. */
export function namespacesSkip(): string | false {
  if (agentSkip) return agentSkip;
  if (process.getuid?.() !== 0) return 'namespaces and seeds of the kernel need root';
  const missing = lacking('unshare', 'ip');
  if (missing) return missing;
  return spawnSync('unshare', [...UNSHARE, 'true']).status !== 0 && 'namespaces cannot be made here';
}

export async function runInNamespaces(t: TestContext, program: string): Promise<RunningAgent> {
  const directory = await workDirectory();
  for (const place of ['etc/ssh', 'var/lib/systemd', 'root']) await mkdir(join(directory, place), { recursive: true });
  await writeFile(join(directory, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  await writeFile(
    join(directory, 'etc/hosts'),
    `127.0.0.1 localhost\n127.0.1.1 ${PARENT.hostname}\n::1 ip6-localhost\n`,
  );
  const env = { ...process.env, ASAN_OPTIONS: 'detect_leaks=0' };
  const child = spawn('unshare', [...UNSHARE, 'sh', '-c', SETUP, 'sh', program, directory], {
    env,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  return await behindSocket(t, child, directory);
}
