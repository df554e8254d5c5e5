/** A Linux guest on a tap: the metadata service, also after a restore, and limits that are changed on the way. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { paced } from '../../support/pace.ts';
import { BOOT_MS, linuxSkipReason, prepared, said, start } from '../support/linux-guest.ts';
import { GUEST_NETWORK, HOST_ADDRESS, tapNamespace, tapSkipReason } from '../support/tap.ts';
import { startVmm, type Vmm, waitFor } from '../support/vmm-process.ts';

const skip = linuxSkipReason() || tapSkipReason();

/** Guest functions: `ask METHOD PATH [HEADER…]` prints the answer on one line behind its status. */
const ASK = `
ask() {
  m=$1; p=$2; shift 2
  { printf "$m $p HTTP/1.1\\r\\n"; for h; do printf "$h\\r\\n"; done; printf "\\r\\n"; } | nc -w 5 $address 80 > /tmp/answer
  body=$(sed '1,/^\\r*$/d' /tmp/answer | tr '\\n' ,)
  echo "<$(head -n 1 /tmp/answer | cut -d' ' -f2) $body>"
}
token() { ask PUT /latest/api/token "X-metadata-token-ttl-seconds: 60" | sed 's/.* \\(.*\\)>/\\1/'; }
`;

async function withInterface(vmm: Vmm, iface: Record<string, unknown> = {}): Promise<void> {
  await vmm.put('/network-interfaces/eth0', { iface_id: 'eth0', host_dev_name: 'tap0', ...iface });
}

describe('the metadata service of a Linux guest', { skip, timeout: paced(300_000) }, () => {
  it('answers at its address, with and without tokens, and nothing of it reaches the tap', async (t) => {
    const prefix = tapNamespace(t);
    // a host that would answer in its place
    spawnSync('ip', [...prefix.slice(1), 'ip', 'addr', 'add', '169.254.169.254/32', 'dev', 'tap0']);
    const vmm = await prepared(
      t,
      `${ASK}${GUEST_NETWORK}; address=169.254.169.254; ip route add $address dev eth0
ping -c 1 -W 5 ${HOST_ADDRESS} > /dev/null && echo "the host is there"
ask GET /latest/meta-data/; t=$(token)
ask GET /latest/meta-data/ "X-metadata-token: $t"
ask GET / "X-metadata-token: $t" "Accept: application/json"
ask GET /big "X-metadata-token: $t" | wc -c
ask GET /nothing "X-aws-ec2-metadata-token: $t"
ping -c 1 -W 1 $address > /dev/null || echo "no ping"
reboot -f`,
      { prefix },
    );
    await withInterface(vmm);
    await vmm.put('/mmds/config', { network_interfaces: ['eth0'], version: 'V2' });
    await vmm.put('/mmds', { latest: { 'meta-data': { name: 'banger', tags: { a: 'b' } } }, big: 'x'.repeat(40_000) });
    await vmm.put('/metrics', { metrics_path: join(vmm.dir, 'metrics') });
    await start(vmm);
    const { stdout, code } = await vmm.ended;
    assert.equal(code, 0);
    assert.match(stdout, /the host is there\r?\n<401 No MMDS token provided/);
    assert.match(stdout, /<200 name,tags\/>/);
    assert.match(stdout, /<200 \{"big":"x{40000}","latest":\{"meta-data":\{"name":"banger","tags":\{"a":"b"\}\}\}\}>/);
    assert.match(stdout, /^40007\r?$/m);
    assert.match(stdout, /<404 Resource not found: \/nothing\.>/);
    assert.match(stdout, /no ping/);
    const lines = readFileSync(join(vmm.dir, 'metrics'), 'utf8').trim().split('\n');
    const counted = (name: string) => lines.reduce((sum, line) => sum + JSON.parse(line).mmds[name], 0);
    assert.equal(counted('rx_no_token'), 1);
    assert.equal(counted('connections_created'), 6);
    assert.equal(counted('rx_accepted_unusual'), 1);
  });

  it('keeps its address and version in a snapshot, and neither data nor tokens', async (t) => {
    const prefix = tapNamespace(t);
    const vmm = await prepared(
      t,
      `${ASK}${GUEST_NETWORK}; address=169.254.169.250; ip route add $address dev eth0
t=$(token); ask GET /a "X-metadata-token: $t"; echo ready; read go
ask GET /a "X-metadata-token: $t"; t=$(token); ask GET / "X-metadata-token: $t" "Accept: application/json"
echo restored; read go; ask GET /a "X-metadata-token: $t"; reboot -f`,
      { prefix, stdin: 'pipe' },
    );
    await withInterface(vmm, { tx_rate_limiter: { ops: { size: 1000, refill_time: 100 } } });
    const config = { network_interfaces: ['eth0'], version: 'V2', ipv4_address: '169.254.169.250', imds_compat: false };
    await vmm.put('/mmds/config', config);
    await vmm.put('/mmds', { a: 'first' });
    await start(vmm);
    await said(vmm, 'ready');
    assert.match(vmm.output(), /<200 first>/);
    await vmm.patch('/vm', { state: 'Paused' });
    const body = { snapshot_path: join(vmm.dir, 'state'), mem_file_path: join(vmm.dir, 'memory') };
    await vmm.put('/snapshot/create', body);
    vmm.process.kill('SIGKILL');
    await vmm.ended;

    const clone = await startVmm(t, { prefix, stdin: 'pipe' });
    await clone.put('/snapshot/load', { ...body, resume_vm: true });
    const restored = await clone.get<Record<string, unknown>>('/vm/config');
    assert.deepEqual(restored['mmds-config'], config);
    assert.deepEqual(await clone.get('/mmds'), {});
    clone.process.stdin?.write('\n');
    await said(clone, 'restored');
    assert.match(clone.output(), /<401 MMDS token not valid\.>\r?\n<200 null>/);
    await clone.put('/mmds', { a: 'second' });
    clone.process.stdin?.write('\n');
    const end = await clone.ended;
    assert.match(end.stdout, /<200 second>/);
    // its devices are reset on the way
    assert.equal(end.code, 0);
  });
});

/** Serves 4 MB on port 7002 in the namespace, and prints how long sending them took. */
async function serveBytes(t: TestContext, prefix: string[]): Promise<void> {
  const script = `require('node:net').createServer((s) => s.on('error', () => {}).end(Buffer.alloc(4e6))).listen(7002, () => console.log('up'))`;
  const [program = '', ...args] = [...prefix, process.execPath, '-e', script];
  const server = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => server.kill());
  await once(server.stdout, 'data');
}

describe('limits of a network interface', { skip, timeout: paced(300_000) }, () => {
  it('hold in both directions, and can be changed while the guest runs', async (t) => {
    const prefix = tapNamespace(t);
    await serveBytes(t, prefix);
    const vmm = await prepared(
      t,
      `${GUEST_NETWORK}; ping -c 1 -W 5 ${HOST_ADDRESS} > /dev/null
fetch() { b=$(cut -d' ' -f1 /proc/uptime); n=$(nc ${HOST_ADDRESS} 7002 < /dev/null | wc -c); echo "$1: $n bytes from $b to $(cut -d' ' -f1 /proc/uptime)"; }
fetch open; read go; fetch limited; read go
b=$(cut -d' ' -f1 /proc/uptime); n=0; for i in 1 2 3 4 5; do ping -c 1 -W 9 ${HOST_ADDRESS} > /dev/null && n=$((n+1)); done; echo "pings: $n bytes from $b to $(cut -d' ' -f1 /proc/uptime)"; read go; fetch again; reboot -f`,
      { prefix, stdin: 'pipe' },
    );
    await withInterface(vmm);
    await start(vmm);
    const seconds = async (name: string) => {
      const line = new RegExp(`${name}: (\\d+) bytes from ([\\d.]+) to ([\\d.]+)\\r?\\n`);
      await waitFor(() => line.test(vmm.output()), `the guest's "${name}"`, BOOT_MS);
      const [, bytes, from, to] = line.exec(vmm.output()) ?? [];
      return { bytes: Number(bytes), seconds: Number(to) - Number(from) };
    };
    const goOn = () => vmm.process.stdin?.write('\n');
    const open = await seconds('open');

    await vmm.patch('/network-interfaces/eth0', {
      iface_id: 'eth0',
      rx_rate_limiter: { bandwidth: { size: 100_000, refill_time: 100 } },
    });
    goOn();
    const limited = await seconds('limited');
    assert.deepEqual([open.bytes, limited.bytes], [4_000_000, 4_000_000]);
    // 4 MB at 1 MB per second, the first tenth for free
    assert.ok(limited.seconds > 3.5 && limited.seconds < 20, `${limited.seconds} s, without a limit ${open.seconds} s`);

    await vmm.patch('/network-interfaces/eth0', {
      iface_id: 'eth0',
      tx_rate_limiter: { ops: { size: 1, refill_time: 1000 } },
    });
    goOn();
    const pings = await seconds('pings');
    assert.equal(pings.bytes, 5);
    assert.ok(pings.seconds > 3.5, `five packets in ${pings.seconds} s at one per second`);
    const config = await vmm.get<{ 'network-interfaces': unknown[] }>('/vm/config');
    assert.deepEqual(config['network-interfaces'], [
      {
        iface_id: 'eth0',
        host_dev_name: 'tap0',
        guest_mac: null,
        mtu: null,
        rx_rate_limiter: { bandwidth: { size: 100_000, one_time_burst: null, refill_time: 100 }, ops: null },
        tx_rate_limiter: { bandwidth: null, ops: { size: 1, one_time_burst: null, refill_time: 1000 } },
      },
    ]);

    const none = { size: 0, refill_time: 0 };
    await vmm.patch('/network-interfaces/eth0', {
      iface_id: 'eth0',
      rx_rate_limiter: { bandwidth: none },
      tx_rate_limiter: { ops: none },
    });
    goOn();
    assert.ok((await seconds('again')).seconds < limited.seconds, 'the limit is still there');
    assert.equal((await vmm.ended).code, 0);
  });
});
