/** SSH connections to running VMs, kept open: a handshake costs an emulated guest a second. */
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { keyBlob, type SshKeyPair } from '../../guest/keys.ts';
import { waitForSsh } from '../../guest/readiness.ts';
import {
  connectSsh,
  GUEST_SSH_PORT,
  GUEST_USER,
  type SshConnection,
  SshLoginError,
  type SshTarget,
} from '../../guest/ssh.ts';
import { sleep } from '../../system/abort.ts';
import type { Guests } from '../host.ts';

const LOGIN_TIMEOUT_MS = 30_000;
/** How long a running guest that does not answer is tried again, and how often. */
const PATIENCE_MS = 8000;
const RETRY_MS = 100;

/** @param keyFile where the private half of `key` is */
export function createGuests(key: SshKeyPair, keyFile: string): Guests {
  const open = new Map<string, SshConnection>();
  const opening = new Map<string, Promise<SshConnection>>();

  const keep = (vm: Pick<VmRecord, 'id'>, connection: SshConnection) => {
    const old = open.get(vm.id);
    open.set(vm.id, connection);
    connection.onClose(() => {
      if (open.get(vm.id) === connection) open.delete(vm.id);
    });
    if (old && old !== connection) void old[Symbol.asyncDispose]();
  };

  const target = (vm: VmRecord): SshTarget => ({
    name: vm.name,
    address: vm.address,
    port: GUEST_SSH_PORT,
    user: GUEST_USER,
    privateKey: key.privateKey,
    hostKey: keyBlob(vm.hostKeyPublic),
  });

  async function connect(vm: VmRecord): Promise<SshConnection> {
    try {
      return await connectPatiently(target(vm));
    } catch (error) {
      if (!(error instanceof SshLoginError)) throw error;
      throw new BangerError('guest_failed', `${vm.name} does not let us in over SSH: ${error.message}.`, {
        cause: error,
        hint: `See what the guest says: banger logs ${vm.name}`,
      });
    }
  }

  return {
    publicKey: key.publicKey,
    keyFile,
    target,
    firstLogin: (vm, options) => waitForSsh(target(vm), options),
    keep,
    peek: (vm) => open.get(vm.id),
    async get(vm) {
      const ready = open.get(vm.id);
      if (ready && !ready.closed) return ready;
      const pending =
        opening.get(vm.id) ??
        connect(vm)
          .then((connection) => {
            keep(vm, connection);
            return connection;
          })
          .finally(() => opening.delete(vm.id));
      opening.set(vm.id, pending);
      return await pending;
    },
    async extra(vm, refusal) {
      const first = open.get(vm.id);
      if (first && !first.closed && !isChannelRefusal(refusal)) throw refusal;
      return await connect(vm);
    },
    async drop(vm) {
      const connection = open.get(vm.id);
      open.delete(vm.id);
      await connection?.[Symbol.asyncDispose]();
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([...open.keys()].map((id) => this.drop({ id })));
    },
  };
}

/** A busy guest may let one SYN or handshake pass; one that is gone will not answer the next ones either. */
async function connectPatiently(target: SshTarget): Promise<SshConnection> {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await connectSsh(target, LOGIN_TIMEOUT_MS);
    } catch (error) {
      if (!(error instanceof SshLoginError) || !error.temporary || performance.now() > deadline) throw error;
      await sleep(RETRY_MS);
    }
  }
}

/** sshd's answer to a channel beyond MaxSessions, as opposed to a connection that broke. */
function isChannelRefusal(error: unknown): boolean {
  return /open failed|Channel open failure/i.test(messageOf(error));
}
