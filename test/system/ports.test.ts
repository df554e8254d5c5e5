import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { describe, it } from 'node:test';
import { findPortHolder } from '../../src/system/ports.ts';

const us = new RegExp(`^\\S+ \\(pid ${process.pid}\\)$`);

describe('findPortHolder', () => {
  it('names the process behind a UDP or TCP port', async (t) => {
    const udp = createSocket('udp4').bind(0, '127.0.0.1');
    await once(udp, 'listening');
    t.after(() => udp.close());
    assert.match((await findPortHolder('127.0.0.1', udp.address().port)) ?? 'nobody', us);

    const tcp = createServer().listen(0, '127.0.0.1');
    await once(tcp, 'listening');
    t.after(() => tcp.close());
    const address = tcp.address();
    assert.ok(typeof address === 'object' && address);
    assert.match((await findPortHolder('127.0.0.1', address.port)) ?? 'nobody', us);
  });

  it('counts sockets on all addresses, and none on another one', async (t) => {
    const everywhere = createSocket('udp4').bind(0);
    const elsewhere = createSocket('udp4').bind(0, '127.0.0.9');
    await Promise.all([once(everywhere, 'listening'), once(elsewhere, 'listening')]);
    t.after(() => [everywhere, elsewhere].map((socket) => socket.close()));
    assert.match((await findPortHolder('127.0.0.1', everywhere.address().port)) ?? 'nobody', us);
    assert.equal(await findPortHolder('127.0.0.1', elsewhere.address().port), undefined);
  });
});
