import assert from 'node:assert/strict';
import { connect, createServer } from 'node:net';
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
    assert.deepEqual(parseFlow(message(6, 3)), { ...flow, ended: false });
    assert.deepEqual(parseFlow(message(6, 7)), { ...flow, ended: true });
    assert.deepEqual(parseFlow(message(17)), { ...flow, protocol: 17, ended: false });
  });

  it('is passed over when it is cut short or of another kind', () => {
    const whole = message(6, 3);
    for (let length = 0; length < whole.length; length++) parseFlow(whole.subarray(0, length));
    assert.equal(parseFlow(Buffer.alloc(4)), undefined);
    assert.equal(parseFlow(Buffer.alloc(0)), undefined);
  });

  it('is listed by the kernel, or nothing is where this user may not ask', async (t) => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    assert.ok(address && typeof address === 'object');
    const client = connect(address.port, '127.0.0.1');
    await new Promise((resolve) => client.once('connect', resolve));
    t.after(() => {
      client.destroy();
      server.close();
    });
    const flows = await listFlows();
    if (process.getuid?.() !== 0) return assert.equal(flows, undefined);
    // where nothing is tracked the list is empty
    if (!flows?.length) return t.skip('this host tracks no connections');
    for (const { source, target, protocol } of flows) {
      assert.match(`${source} ${target}`, /^[\d.]+ [\d.]+$/);
      assert.ok(protocol > 0 && protocol < 256);
    }
  });
});
