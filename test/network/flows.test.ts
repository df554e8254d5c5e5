import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { listFlows, parseFlow } from '../../src/network/flows.ts';

function attribute(type: number, ...parts: (Buffer | number[])[]): Buffer {
  const value = Buffer.concat(parts.map((part) => Buffer.from(part)));
  const head = Buffer.alloc(4);
  head.writeUInt16LE(4 + value.length, 0);
  head.writeUInt16LE(type, 2);
  return Buffer.concat([head, value, Buffer.alloc((4 - (value.length % 4)) % 4)]);
}

const NESTED = 0x8000;

function message(protocol: number, state?: number): Buffer {
  const ip = attribute(1 | NESTED, attribute(1, [172, 30, 0, 1]), attribute(2, [172, 30, 0, 2]));
  const proto = attribute(2 | NESTED, attribute(1, [protocol]), attribute(2, [0x9c, 0x40]), attribute(3, [0, 22]));
  const tuple = attribute(1 | NESTED, ip, proto);
  const tcp = state === undefined ? [] : [attribute(4 | NESTED, attribute(1 | NESTED, attribute(1, [state])))];
  return Buffer.concat([Buffer.from([2, 0, 0, 0]), tuple, ...tcp]);
}

describe('a tracked connection', () => {
  it('is read with who began it, to which port, and whether it is over', () => {
    const flow = { source: '172.30.0.1', target: '172.30.0.2', protocol: 6, targetPort: 22 };
    // SYN_SENT to LAST_ACK: one that is half open or half closed is not over
    for (const state of [0, 1, 2, 3, 4, 5, 6, 9])
      assert.deepEqual(parseFlow(message(6, state)), { ...flow, ended: false });
    for (const state of [7, 8]) assert.deepEqual(parseFlow(message(6, state)), { ...flow, ended: true });
    assert.deepEqual(parseFlow(message(17)), { ...flow, protocol: 17, ended: false });
  });

  it('is passed over when it is cut short or of another kind', () => {
    const whole = message(6, 3);
    for (let length = 0; length < whole.length; length++) parseFlow(whole.subarray(0, length));
    assert.equal(parseFlow(Buffer.alloc(4)), undefined);
    assert.equal(parseFlow(Buffer.alloc(0)), undefined);
  });

  it('is listed by the kernel where connections are tracked', (t) => {
    // a network of its own: what is tracked on this host depends on the rules that others have made
    const inside = `
      ip link set lo up || exit 97
      nft 'add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c ct state new accept' || exit 97
      exec "$0" --input-type=module --eval "$1" "$2"`;
    const program = `
      import { once } from 'node:events';
      import { connect, createServer } from 'node:net';
      const { listFlows } = await import(process.argv[1]);
      const server = createServer().listen(7007, '127.0.0.1');
      await once(server, 'listening');
      await once(connect(7007, '127.0.0.1'), 'connect');
      console.log(JSON.stringify(await listFlows()));
      process.exit();`;
    const module = join(import.meta.dirname, '../../src/network/flows.ts');
    const arguments_ = ['--net', 'sh', '-c', inside, process.execPath, program, module];
    const unshared = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user'];
    const { status, stdout, stderr } = spawnSync('unshare', [...unshared, ...arguments_], { encoding: 'utf8' });
    if (status === 97 || /unshare failed/.test(stderr)) return t.skip(`no network of its own: ${stderr}`);
    assert.equal(status, 0, stderr);
    assert.deepEqual(JSON.parse(stdout), [
      { source: '127.0.0.1', target: '127.0.0.1', protocol: 6, targetPort: 7007, ended: false },
    ]);
  });

  it('is not listed to a user who may not ask', { skip: process.getuid?.() === 0 && 'root may ask' }, async () => {
    assert.equal(await listFlows(), undefined);
  });
});
