/** What happens to an interface's packets on their way through fcqemu: cutting, sending on, limiting. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, it, mock, type TestContext } from 'node:test';
import { FramePort, frameOf, type Packet, PacketDecoder, packetOf } from '../../fcqemu/vmm/net/frame-port.ts';
import { Shaper } from '../../fcqemu/vmm/net/shaper.ts';
import { updatedLimiter } from '../../fcqemu/vmm/rate-limiter.ts';
import { tempDir } from '../support/temp-dir.ts';
import { waitFor } from './support/vmm-process.ts';

const packet = (size: number, fill = 1) => packetOf(Buffer.alloc(size - 12, fill), 12);

function feed(decoder: PacketDecoder, bytes: Buffer): Packet[] {
  bytes.copy(decoder.room());
  const packets: Packet[] = [];
  decoder.take(bytes.length, (each) => {
    packets.push({ ...each, bytes: Buffer.from(each.bytes) });
    return false;
  });
  return packets;
}

describe('a stream of packets', () => {
  it('is cut where it belongs, however it arrives', () => {
    const sent = [packet(60, 1), packet(1514, 2), packet(12), packet(70_000, 3)];
    const stream = Buffer.concat(sent.map(({ bytes }) => bytes));
    for (const step of [1, 7, 1000, stream.length]) {
      const decoder = new PacketDecoder();
      const received: Packet[] = [];
      for (let at = 0; at < stream.length; at += step) received.push(...feed(decoder, stream.subarray(at, at + step)));
      assert.deepEqual(received, sent, `in steps of ${step}`);
    }
  });

  it('leaves packets alone that are still needed', () => {
    const decoder = new PacketDecoder();
    const kept: Packet[] = [];
    const { bytes } = packet(100, 9);
    Buffer.concat([bytes, bytes.subarray(0, 50)]).copy(decoder.room());
    decoder.take(bytes.length + 50, (each) => kept.push(each) > 0);
    assert.deepEqual(feed(decoder, bytes.subarray(50)).map(frameOf), [Buffer.alloc(88, 9)]);
    feed(decoder, packet(100, 5).bytes);
    assert.deepEqual(kept.map(frameOf), [Buffer.alloc(88, 9)]);
  });

  it('is not believed when a packet is longer than any', () => {
    const bytes = Buffer.alloc(8);
    bytes.writeUInt32BE(1_000_000, 0);
    assert.throws(() => feed(new PacketDecoder(), bytes), /a packet of 1000000 bytes/);
  });

  it('arrives unchanged at a receiver that is slow to read', async (t) => {
    const [source, target] = [await peer(t), await peer(t)];
    const out = new FramePort(target.path);
    const from = new FramePort(source.path, (each) => out.send(each));
    await Promise.all([out.connected(), from.connected()]);
    const sent: Buffer[] = [];
    for (let i = 0; i < 200; i++) sent.push(packet(10_000, i).bytes);
    (await source.socket).write(Buffer.concat(sent));
    const receiver = await target.socket;
    await new Promise((resolve) => setTimeout(resolve, 100));
    const received: Buffer[] = [];
    let length = 0;
    receiver.on('data', (bytes: Buffer) => {
      received.push(bytes);
      length += bytes.length;
    });
    await waitFor(() => length === 200 * 10_008, 'all packets');
    assert.ok(Buffer.concat(received).equals(Buffer.concat(sent)));
  });
});

/** One end of a connection like QEMU's. */
async function peer(t: TestContext): Promise<{ path: string; socket: Promise<Socket> }> {
  const path = join(await tempDir(t), 'frames');
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const socket = once(server, 'connection').then(([each]) => each as Socket);
  t.after(async () => {
    (await socket).destroy();
    server.close();
  });
  return { path, socket };
}

describe('a limited direction', () => {
  const bucket = (size: number, refill_time: number, one_time_burst: number | null = null) => ({
    size,
    refill_time,
    one_time_burst,
  });

  function shaper(t: TestContext) {
    let nowMs = 0;
    mock.timers.enable({ apis: ['setTimeout'] });
    mock.method(performance, 'now', () => nowMs);
    t.after(() => mock.reset());
    t.after(() => mock.timers.reset());
    const delivered: number[] = [];
    const it = new Shaper(({ bytes }) => {
      delivered.push(bytes.length - 8);
      return false;
    });
    const pass = (ms: number) => {
      for (let i = 0; i < ms; i++) {
        nowMs += 1;
        mock.timers.tick(1);
      }
    };
    return { it, delivered, pass };
  }

  it('lets through what its buckets hold, and the rest at their rate', (t) => {
    const { it: limited, delivered, pass } = shaper(t);
    limited.configure({ bandwidth: bucket(1000, 100), ops: null });
    for (let i = 0; i < 30; i++) limited.push(packet(100));
    assert.equal(delivered.length, 10);
    pass(100);
    assert.ok(delivered.length >= 19 && delivered.length <= 21, `${delivered.length} after 100 ms`);
    pass(110);
    assert.equal(delivered.length, 30);
    assert.equal(limited.throttled, 20);
  });

  it('counts packets too, spends the burst once, and passes what is larger than the bucket', (t) => {
    const { it: limited, delivered, pass } = shaper(t);
    limited.configure({ bandwidth: null, ops: bucket(2, 1000, 3) });
    for (let i = 0; i < 9; i++) limited.push(packet(100));
    assert.equal(delivered.length, 5);
    limited.configure({ bandwidth: bucket(100, 10), ops: null });
    assert.equal(delivered.length, 6);
    limited.push(packet(5000));
    pass(1000);
    assert.deepEqual(delivered.slice(6), [100, 100, 100, 5000]);
  });

  it('goes on with a bucket that an update does not name', (t) => {
    const { it: limited, delivered, pass } = shaper(t);
    const first = updatedLimiter(null, { ops: bucket(2, 1000, 3) });
    limited.configure(first);
    for (let i = 0; i < 5; i++) limited.push(packet(100));
    const second = updatedLimiter(first, { bandwidth: bucket(1_000_000, 1000) });
    limited.configure(second);
    limited.push(packet(100));
    assert.equal(delivered.length, 5);
    pass(500);
    assert.equal(delivered.length, 6);
    // one that is named is full again, also with the values it had
    limited.configure(updatedLimiter(second, { ops: bucket(2, 1000, 3) }));
    for (let i = 0; i < 6; i++) limited.push(packet(100));
    assert.equal(delivered.length, 11);
  });

  it('loses what the queue has no room for, and is open again without limits', (t) => {
    const { it: limited, delivered } = shaper(t);
    limited.configure({ bandwidth: bucket(1, 1000), ops: null });
    for (let i = 0; i < 40; i++) limited.push(packet(50_000));
    limited.configure(null);
    assert.equal(delivered.length, 1 + Math.floor((1024 * 1024) / 50_000));
    limited.push(packet(60));
    assert.equal(delivered.at(-1), 60);
  });
});
