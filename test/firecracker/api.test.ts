import assert from 'node:assert/strict';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { BangerError } from '../../src/errors.ts';
import { connectVmm, describeVmm, faultMessage, watchVmm } from '../../src/firecracker/api.ts';
import { action, describeInstance } from '../../src/firecracker/requests.ts';
import { tempDir } from '../support/temp-dir.ts';

interface Peer {
  socketPath: string;
  /** everything that was sent to it */
  received: string[];
  connections: Socket[];
  close(): void;
}

/** A socket that answers each request with the next of these texts. */
async function peer(t: TestContext, ...answers: string[]): Promise<Peer> {
  const socketPath = join(await tempDir(t), 'vm.sock');
  const received: string[] = [];
  const connections: Socket[] = [];
  const server = createServer((socket) => {
    connections.push(socket);
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      received.push(chunk.toString('utf8'));
      const answer = answers.shift();
      if (answer === undefined) socket.destroy();
      else socket.write(answer);
    });
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  const close = () => {
    for (const socket of connections) socket.destroy();
    server.close();
  };
  t.after(close);
  return { socketPath, received, connections, close };
}

function http(status: string, body: string): string {
  return `HTTP/1.1 ${status}\r\nServer: Firecracker API\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
}

const NO_CONTENT = 'HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n';

async function refusal(promise: Promise<unknown>): Promise<BangerError> {
  const error: unknown = await promise.then(
    () => assert.fail('it was not refused'),
    (reason) => reason,
  );
  assert.ok(error instanceof BangerError, String(error));
  return error;
}

describe("a VMM's API", () => {
  it('is spoken to over one connection, with the exact length of each body', async (t) => {
    const vmm = await peer(t, NO_CONTENT, http('200 ', '{"id":"a","state":"Running"}'));
    await using api = connectVmm(vmm.socketPath);
    assert.equal(await api.send(action('InstanceStart')), undefined);
    assert.deepEqual(await api.send(describeInstance()), { id: 'a', state: 'Running' });
    assert.equal(vmm.connections.length, 1);
    const [put = '', get = ''] = vmm.received;
    assert.match(put, /^PUT \/actions HTTP\/1\.1\r\n/);
    assert.match(put, /\r\nContent-Length: 31\r\n[\s\S]*\r\n\r\n\{"action_type":"InstanceStart"\}$/);
    assert.doesNotMatch(put + get, /chunked/i);
    assert.match(get, /^GET \/ HTTP\/1\.1\r\n/);
  });

  it('says in its own words why it refuses', async (t) => {
    const fault = '{"fault_message":"The kernel file cannot be opened: \\"/x\\" No such file (os error 2)"}';
    const vmm = await peer(t, http('400 ', fault));
    await using api = connectVmm(vmm.socketPath);
    const error = await refusal(api.send(action('InstanceStart')));
    assert.equal(error.code, 'vmm_failed');
    assert.equal(
      error.message,
      'The VMM refused PUT /actions: The kernel file cannot be opened: "/x" No such file (os error 2)',
    );
    assert.deepEqual(error.details, { status: 400, method: 'PUT', path: '/actions' });
  });

  it('is understood when its transport complains, in what is no JSON', async (t) => {
    const raw = '{ "error": "Invalid header.\nAll previous unanswered requests will be dropped." }';
    const vmm = await peer(t, http('400 ', raw));
    await using api = connectVmm(vmm.socketPath);
    const error = await refusal(api.send(describeInstance()));
    assert.match(error.message, /: Invalid header\. All previous unanswered requests will be dropped\.$/);
  });

  it('is quoted when it answers with neither', () => {
    assert.equal(faultMessage({ status: 500, text: '' }), 'status 500');
    assert.equal(faultMessage({ status: 502, text: 'bad gateway\n' }), 'status 502: bad gateway');
  });

  it('is reported as gone when it hangs up or is not there', async (t) => {
    const vmm = await peer(t);
    await using api = connectVmm(vmm.socketPath);
    assert.match((await refusal(api.send(describeInstance()))).message, /^The VMM did not answer GET \/: /);
    await using nobody = connectVmm(`${vmm.socketPath}.not`);
    assert.equal((await refusal(nobody.send(describeInstance()))).code, 'vmm_failed');
  });

  it('says who it is on a connection of its own, in however many pieces', async (t) => {
    const answer = http('200 ', '{"id":"a","state":"Paused"}');
    const vmm = await peer(t, answer.slice(0, -5));
    const asked = describeVmm(vmm.socketPath, 5000);
    while (vmm.received.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    vmm.connections[0]?.write(answer.slice(-5));
    assert.deepEqual(await asked, { id: 'a', state: 'Paused' });
    assert.match(vmm.received.join(''), /^GET \/ HTTP\/1\.1\r\nHost: localhost\r\n[^{]*\r\n\r\n$/);
  });

  it('is told apart by whether it is silent, is not there, or says something else', async (t) => {
    const mute = await peer(t, '');
    assert.equal(await describeVmm(mute.socketPath, 50), 'silent');
    const rude = await peer(t);
    assert.equal((await refusal(describeVmm(rude.socketPath, 5000))).code, 'vmm_failed');
    assert.equal((await refusal(describeVmm(`${rude.socketPath}.not`, 5000))).code, 'vmm_failed');
    for (const answer of [http('400 ', '{"fault_message":"no"}'), http('200 ', 'nonsense'), 'x'.repeat(70_000)]) {
      const other = await peer(t, answer);
      assert.match((await refusal(describeVmm(other.socketPath, 5000))).message, /^The VMM did not answer GET \/: /);
    }
  });

  it('tells once when its process ends, also to who connects too late, and nothing after unwatching', async (t) => {
    const vmm = await peer(t);
    const ends: string[] = [];
    const first = Promise.withResolvers<void>();
    const late = Promise.withResolvers<void>();
    const stop = watchVmm(vmm.socketPath, () => ends.push('unwatched'));
    watchVmm(vmm.socketPath, () => {
      ends.push('watched');
      first.resolve();
    });
    const deadline = performance.now() + 5000;
    while (vmm.connections.length < 2) {
      assert.ok(performance.now() < deadline);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    stop();
    vmm.close();
    await first.promise;
    watchVmm(vmm.socketPath, () => late.resolve());
    await late.promise;
    assert.deepEqual(ends, ['watched']);
  });
});
