import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { createPacketCutter, openingOf } from '../../src/network/held-packets.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { paced } from '../support/pace.ts';
import { playScenario } from './support/small-world.ts';

const SYN = 0b10;
const ACK = 0b10000;

interface Described {
  protocol?: number;
  flags?: number;
  fragment?: number;
  /** bytes of options of IP */
  options?: number;
  length?: number;
}

function packet({
  protocol = 6,
  flags = SYN,
  fragment = 0,
  options = 0,
  length = 40 + options,
}: Described = {}): Buffer {
  const bytes = Buffer.alloc(length);
  bytes.writeUInt8(0x40 | (5 + options / 4), 0);
  bytes.writeUInt16BE(length, 2);
  bytes.writeUInt16BE(fragment, 6);
  bytes.writeUInt8(protocol, 9);
  bytes.set([172, 30, 0, 1], 12);
  bytes.set([172, 30, 0, 9], 16);
  if (length > 33 + options) bytes.writeUInt8(flags, 33 + options);
  return bytes;
}

describe('the first packet of a connection', () => {
  it('is told from all others', () => {
    const opening = { source: '172.30.0.1', target: '172.30.0.9' };
    assert.deepEqual(openingOf(packet()), opening);
    assert.deepEqual(openingOf(packet({ options: 8 })), opening);
    // congestion notification is asked for in the same packet
    assert.deepEqual(openingOf(packet({ flags: SYN | 0b1100_0000 })), opening);
    for (const other of [
      ...[
        { flags: ACK },
        { flags: SYN | ACK },
        { flags: SYN | 0b100 },
        { flags: 0 },
        { protocol: 17 },
        { protocol: 1 },
      ],
      ...[{ fragment: 1 }, { length: 20 }, { length: 39 }],
    ]) {
      assert.equal(openingOf(packet(other)), undefined, JSON.stringify(other));
    }
    fc.assert(fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => void openingOf(Buffer.from(bytes))));
  });

  it('is found in a stream of packets, however that is cut', () => {
    const ipv6 = Buffer.alloc(48);
    ipv6.writeUInt8(0x60, 0);
    ipv6.writeUInt16BE(8, 4);
    const packets = [packet(), ipv6, packet({ length: 60 }), packet({ protocol: 1 })];
    const stream = Buffer.concat(packets);
    for (let size = 1; size <= stream.length; size++) {
      const cut = createPacketCutter();
      const found: Buffer[] = [];
      for (let at = 0; at < stream.length; at += size) found.push(...cut(stream.subarray(at, at + size)));
      assert.deepEqual(found, packets, `cut in ${size}`);
    }
    assert.throws(() => createPacketCutter()(Buffer.alloc(40)), RangeError);
  });
});

describe('the device of VMs that are asleep', {
  skip:
    (process.getuid?.() !== 0 && 'devices need root') ||
    (!existsSync('/dev/net/tun') && 'there is no /dev/net/tun') ||
    lacking('unshare', 'nsenter', 'ip', 'setpriv'),
}, () => {
  it('holds the packet until the machine is up, and is gone with who has it', async () => {
    const program = join(import.meta.dirname, 'support/sleep-host.ts');
    const argv = ['--net', '--', process.execPath, program];
    const { stdout } = await promisify(execFile)('unshare', argv, { timeout: paced(30_000) });
    const { tookMs, text, seen, routes, links, withoutIpv6 } = JSON.parse(stdout);
    // TCP itself would try again after a second
    assert.ok(tookMs >= 300 && tookMs < 900, `${tookMs} ms`);
    assert.equal(text, 'hello');
    assert.deepEqual(seen, [{ source: '172.30.0.1', target: '172.30.0.9' }], 'nothing was sent twice');
    assert.deepEqual(withoutIpv6, []);
    assert.match(routes, /^172\.30\.0\.9 dev bgr-00000009 .*src 172\.30\.0\.1$/);
    assert.deepEqual(
      links.filter((name: string) => name.includes('0badcafe')),
      [],
    );
  });
});

describe('VMs that are asleep', {
  skip:
    (process.getuid?.() !== 0 && 'a network namespace needs root') ||
    (!existsSync('/dev/net/tun') && 'there is no /dev/net/tun') ||
    lacking('nft', 'unshare', 'nsenter', 'ip', 'setpriv'),
}, () => {
  it('are woken by their host, and by VMs that may talk to them, as who they are', async () => {
    const nobody = { stranger: '', container: '' };
    assert.deepEqual(await playScenario(join(import.meta.dirname, 'support/sleepers-scenario.ts')), {
      'VMs apart': { nat: '', alone: '', ...nobody, host: '10.99.0.1' },
      'none of them runs': { ...nobody, host: '10.99.0.1' },
      'put back': [true, false],
      'somebody flushed': { stranger: '' },
      'VMs together': { nat: '10.98.0.2', alone: '10.98.0.3', ...nobody, host: '10.98.0.1' },
      'sent on too early': [],
      'woken by nat': '10.98.0.2',
      'woken by alone': '10.98.0.3',
      'rules left': [],
    });
  });
});
