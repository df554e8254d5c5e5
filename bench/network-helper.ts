/**
 * What it costs that a network is made by the helper: the attachment of one VM by root's own programs and by the helper, turn
 * about, in a network namespace. As root: `node bench/network-helper.ts [ROUNDS]`; the helper is dist/bangernet.
 */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { createLocalPort, type NetworkPort } from '../src/network/port.ts';
import { createPrivileged } from '../src/system/privilege.ts';
import { createRunner } from '../src/system/runner.ts';
import { RealHelper } from '../test/nethelper/support/real-helper.ts';

const POOL = '172.30.0.0/16';
const USER = 28_001;

/** Median of what `work` takes, in `ms`. */
function median(times: number[]): number {
  return times.sort((one, other) => one - other)[Math.floor(times.length / 2)] ?? 0;
}

async function timed(work: Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await work;
  return performance.now() - begun;
}

async function measure(rounds: number): Promise<void> {
  const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });
  await runner.run(['ip', 'link', 'set', 'lo', 'up']);
  await using helper = await RealHelper.start([join(import.meta.dirname, '../dist/bangernet')]);
  const privileged = createPrivileged(runner, { uid: 0, sudo: 'never', sudoProgram: '' });
  const local = createLocalPort({ privileged, programs: { ip: 'ip', nft: 'nft', sysctl: 'sysctl' } });
  const ways: Record<string, { port: NetworkPort; table: string; attach: number[]; detach: number[] }> = {
    root: { port: local, table: 'banger_bench', attach: [], detach: [] },
    helper: { port: helper.portOf(USER, { pool: POOL, instance: '' }), table: '', attach: [], detach: [] },
  };
  const tap = {
    ...{ name: 'bgr-00000001', address: '172.30.0.2', mac: '06:00:ac:1e:00:02', hostMac: '02:00:ac:1e:00:02' },
    ...{ gateway: '172.30.0.1', mtu: 1500, ownerUid: USER },
  };
  for (let round = 0; round < rounds + 1; round++) {
    for (const { port, table, attach, detach } of Object.values(ways)) {
      const rules = { table, members: [{ tap: tap.name, address: tap.address, nat: true }], vmToVm: true };
      const made = await timed(port.attach(tap, rules));
      const gone = await timed(port.detach(tap.name, { ...rules, members: [] }));
      // the first one loads what it needs
      if (round === 0) continue;
      attach.push(made);
      detach.push(gone);
    }
  }
  const [root, asked] = Object.values(ways).map(({ attach, detach }) => [median(attach), median(detach)]);
  console.log(`attach: root ${root?.[0]?.toFixed(1)} ms, helper ${asked?.[0]?.toFixed(1)} ms`);
  console.log(`detach: root ${root?.[1]?.toFixed(1)} ms, helper ${asked?.[1]?.toFixed(1)} ms`);
  console.log(`helper / root: ${((asked?.[0] ?? 0) / (root?.[0] ?? 1)).toFixed(2)}`);
}

const [rounds = '40', inside] = process.argv.slice(2);
if (inside) await measure(Number(rounds));
else {
  const apart = ['--net', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc'];
  const script = 'mount -t sysfs none /sys && exec "$@"';
  const argv = [...apart, 'sh', '-c', script, 'sh', process.execPath, import.meta.filename, rounds, 'inside'];
  execFileSync('unshare', argv, { stdio: 'inherit' });
}
