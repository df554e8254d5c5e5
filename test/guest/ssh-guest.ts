/** A guest as SSH sees it: a server in this process, behind a wire that can be cut. */
import { type AddressInfo, createServer, connect as dial, type Server, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import ssh2, { type ServerChannel } from 'ssh2';
import { generateKeyPair, keyBlob } from '../../src/guest/keys.ts';
import type { SshTarget } from '../../src/guest/ssh.ts';

export interface SshGuest {
  target: SshTarget;
  /** From now on nothing passes any more, and nobody is told. */
  cutWire(): void;
}

/** Lets in who has the target's key, unless told otherwise; every command is answered with its own text. */
export async function sshGuest(
  t: TestContext,
  letIn: () => boolean = () => true,
  perform: (command: string, channel: ServerChannel) => void = echo,
): Promise<SshGuest> {
  const [hostKey, clientKey] = await Promise.all([generateKeyPair('guest'), generateKeyPair('client')]);
  const server = new ssh2.Server({ hostKeys: [hostKey.privateKey] }, (client) => {
    client.on('error', () => {});
    client.on('authentication', (context) => {
      const ours = context.method === 'publickey' && context.key.data.equals(keyBlob(clientKey.publicKey));
      if (ours && letIn()) context.accept();
      else context.reject(['publickey']);
    });
    client.on('session', (accept) => {
      accept().on('exec', (acceptExec, _reject, { command }) => {
        perform(command, acceptExec());
      });
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
  const wire = await proxy(t, (server.address() as AddressInfo).port);
  t.after(() => server.close());
  return {
    cutWire: wire.cut,
    target: {
      name: 'web',
      address: '127.0.0.1',
      port: wire.port,
      user: 'root',
      privateKey: clientKey.privateKey,
      hostKey: keyBlob(hostKey.publicKey),
    },
  };
}

function echo(command: string, channel: ServerChannel): void {
  channel.write(command);
  channel.exit(0);
  channel.end();
}

async function proxy(t: TestContext, port: number): Promise<{ port: number; cut(): void }> {
  const pairs: Socket[] = [];
  let whole = true;
  const front: Server = createServer({ allowHalfOpen: true }, (near) => {
    const far = dial(port, '127.0.0.1');
    for (const socket of [near, far]) socket.on('error', () => {});
    if (whole) near.pipe(far).pipe(near);
    pairs.push(near, far);
  });
  await new Promise<void>((resolve) => front.listen(0, '127.0.0.1', () => resolve()));
  t.after(() => {
    for (const socket of pairs) socket.destroy();
    front.close();
  });
  return {
    port: (front.address() as AddressInfo).port,
    cut() {
      whole = false;
      for (const socket of pairs) socket.unpipe().pause();
    },
  };
}
