import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { BangerError } from '../../src/errors.ts';
import { generateKeyPair, keyBlob } from '../../src/guest/keys.ts';
import { waitForSsh } from '../../src/guest/readiness.ts';
import { breachOf, connectSsh, SshLoginError } from '../../src/guest/ssh.ts';
import { MIB } from '../../src/units.ts';
import { paced } from '../support/pace.ts';
import { sshGuest } from './ssh-guest.ts';

async function loginError(promise: Promise<unknown>): Promise<SshLoginError> {
  const error: unknown = await promise.then(
    () => assert.fail('it was let in'),
    (reason) => reason,
  );
  assert.ok(error instanceof SshLoginError, String(error));
  return error;
}

async function bangerError(promise: Promise<unknown>): Promise<BangerError> {
  const error: unknown = await promise.then(
    () => assert.fail('it came up'),
    (reason) => reason,
  );
  assert.ok(error instanceof BangerError, String(error));
  return error;
}

describe('an SSH connection', () => {
  it('logs in with the key and runs commands', async (t) => {
    const { target } = await sshGuest(t);
    await using connection = await connectSsh(target, 5000);
    assert.equal(await text(await connection.exec('uname -a')), 'uname -a');
    assert.equal(connection.closed, false);
  });

  for (const output of ['stdout', 'stderr'] as const) {
    it(`is closed when the guest sends more than it was granted, by ${output}`, async (t) => {
      const { target } = await sshGuest(
        t,
        () => true,
        (_command, channel) => {
          // packets that no window is a multiple of: ssh2 stops at a window of exactly 0
          const lies = { window: Number.MAX_SAFE_INTEGER, packetSize: 30_011 };
          Object.assign((channel as unknown as { outgoing: object }).outgoing, lies);
          (output === 'stdout' ? channel : channel.stderr).write(Buffer.alloc(64 * MIB));
        },
      );
      const connection = await connectSsh(target, 5000);
      const channel = await connection.exec('flood');
      const closed = Promise.withResolvers<void>();
      connection.onClose(closed.resolve);
      await closed.promise;
      assert.equal(breachOf(channel), 'sent more than it was granted');
      assert.ok(channel.readableLength + channel.stderr.readableLength < 10 * MIB);
    });
  }

  it('is closed when the guest lets answers pile up', async (t) => {
    const { target } = await sshGuest(
      t,
      () => true,
      (_command, channel) => {
        // a guest that reads nothing any more, and still talks
        const { _client } = channel as unknown as { _client: { _sock: Socket } };
        _client._sock.pause();
        const talk = setInterval(() => channel.write('.'), 50);
        _client._sock.once('close', () => clearInterval(talk));
      },
    );
    const connection = await connectSsh(target, 5000);
    const channel = await connection.exec('talk');
    channel.resume();
    Object.assign((channel as unknown as { outgoing: object }).outgoing, { window: Number.MAX_SAFE_INTEGER });
    const closed = Promise.withResolvers<void>();
    connection.onClose(closed.resolve);
    channel.write(Buffer.alloc(64 * MIB));
    await closed.promise;
    assert.equal(breachOf(channel), 'asked on and on and read no answers');
  });

  it('is refused for good when the guest shows another host key, or knows not ours', async (t) => {
    const { target } = await sshGuest(t);
    const strange = keyBlob((await generateKeyPair('strange')).publicKey);
    const wrongHost = await loginError(connectSsh({ ...target, hostKey: strange }, 5000));
    assert.match(wrongHost.message, /another host key/);
    assert.equal(wrongHost.temporary, false);
    const { privateKey } = await generateKeyPair('strange');
    assert.equal((await loginError(connectSsh({ ...target, privateKey }, 5000))).temporary, false);
  });

  it('is refused for now when nothing listens or nothing answers', async (t) => {
    const { target, cutWire } = await sshGuest(t);
    const nothing = await loginError(connectSsh({ ...target, port: 1 }, 5000));
    assert.deepEqual([nothing.message, nothing.temporary], ['nothing listens on its port 1', true]);
    const connecting = loginError(connectSsh(target, 300));
    cutWire();
    assert.equal((await connecting).temporary, true);
  });

  it('gives a command up that the guest does not begin', async (t) => {
    const { target, cutWire } = await sshGuest(t);
    const connection = await connectSsh(target, 5000);
    t.mock.timers.enable({ apis: ['setTimeout'] });
    cutWire();
    const refused = bangerError(connection.exec('true'));
    t.mock.timers.tick(60_000);
    assert.match((await refused).message, /^web did not run the command: it did not begin it within 60 s$/);
    t.mock.timers.reset();
    await connection[Symbol.asyncDispose]();
  });

  it('is closed in time, also when the guest is gone without a word', async (t) => {
    const { target, cutWire } = await sshGuest(t);
    const connection = await connectSsh(target, 5000);
    const closed = Promise.withResolvers<void>();
    connection.onClose(() => closed.resolve());
    cutWire();
    const begun = performance.now();
    await connection[Symbol.asyncDispose]();
    await closed.promise;
    assert.equal(connection.closed, true);
    assert.ok(performance.now() - begun < paced(4000));
  });
});

describe('a guest that answers with something else', () => {
  for (const [what, reply] of Object.entries({
    'one line without an end': 'x'.repeat(64 * 1024),
    'lines before its name, without end': `${'x'.repeat(200)}\r\n`.repeat(300),
    'a packet that claims 4 GiB': Buffer.concat([Buffer.from('SSH-2.0-evil\r\n'), Buffer.alloc(64 * 1024, 0xff)]),
    'bytes by chance': randomBytes(64 * 1024),
  })) {
    it(`is given up in time and costs no memory: ${what}`, async (t) => {
      let sent = 0;
      const server = createServer((socket) => {
        socket.on('error', () => {});
        const pump = () => {
          while (!socket.destroyed) {
            sent += reply.length;
            if (!socket.write(reply)) return void socket.once('drain', pump);
          }
        };
        pump();
      });
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
      t.after(() => server.close());
      const { target } = await sshGuest(t);
      const { port } = server.address() as AddressInfo;
      const begun = performance.now();
      await loginError(connectSsh({ ...target, port }, 1500));
      assert.ok(performance.now() - begun < paced(4000));
      t.diagnostic(`${sent} bytes were sent`);
      // with what the kernel holds between the two
      assert.ok(sent < 16 * MIB, `${sent} bytes were taken of a guest that speaks no SSH`);
    });
  }
});

describe('waiting for a guest', () => {
  it('ends with the first login that works', async (t) => {
    const { target } = await sshGuest(t);
    await using connection = await waitForSsh(target, { timeoutMs: 5000 });
    assert.equal(connection.closed, false);
  });

  it('ends when time is up, with what was seen last and what to do', async (t) => {
    const { target } = await sshGuest(t);
    const error = await bangerError(waitForSsh({ ...target, port: 1 }, { timeoutMs: 200 }));
    assert.equal(error.code, 'timeout');
    assert.match(error.message, /^web did not answer SSH within 0 s \(last: nothing listens on its port 1\)/);
    assert.match(error.hint ?? '', /banger logs web .*banger start web --timeout/);
  });

  it('ends when there is nothing to wait for any more, or when called off', async (t) => {
    const { target } = await sshGuest(t);
    const nobody = { ...target, port: 1 };
    const gone = await bangerError(waitForSsh(nobody, { timeoutMs: 9000, givenUp: async () => 'the VMM ended.' }));
    assert.deepEqual([gone.code, gone.message], ['guest_failed', 'web did not boot: the VMM ended.']);
    const signal = AbortSignal.timeout(100);
    assert.equal((await bangerError(waitForSsh(nobody, { timeoutMs: 9000, signal }))).code, 'cancelled');
  });

  it('ends when the guest is up and says no', async (t) => {
    const { target } = await sshGuest(t, () => false);
    const error = await bangerError(waitForSsh(target, { timeoutMs: 5000 }));
    assert.equal(error.code, 'guest_failed');
    assert.match(error.message, /^web booted but refuses the login: /);
  });
});
