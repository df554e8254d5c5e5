/** The client's end of a lease: what holds a temporary VM for as long as this process lives. */
import { readLines } from '../../client/watch.ts';
import { BangerError } from '../../errors.ts';
import type { Context } from '../context.ts';
import { watchInterrupts } from './interrupts.ts';

export interface HeldLease {
  id: string;
  /** name for the VM */
  vmName: string;
  /** Ends it and waits until its VM is gone; a second Ctrl-C leaves that to the daemon. */
  end(): Promise<void>;
}

/** @throws BangerError `daemon_unreachable`, or what else keeps the daemon from granting one */
export async function holdLease(ctx: Context): Promise<HeldLease> {
  const leave = new AbortController();
  const lines = readLines(ctx.api, 'holdLease', { query: { holder: process.pid } }, leave.signal);
  const first = await lines.next();
  if (first.done || first.value.type !== 'granted') {
    throw new BangerError('daemon_unreachable', 'The daemon ends and makes no VMs any more.', {
      hint: 'banger daemon start',
    });
  }
  const { lease: id, name: vmName } = first.value;
  let gone = false;
  const watched = (async () => {
    for await (const line of lines) gone ||= line.type === 'ended';
  })().catch(() => {}); // the daemon was killed: the next one deletes the VM before it answers
  return {
    id,
    vmName,
    async end() {
      try {
        if (gone) return;
        using interrupts = watchInterrupts(ctx.terminal);
        await Promise.race([endLease(ctx, id), interrupts.second]);
      } finally {
        leave.abort();
        await watched;
      }
    },
  };
}

async function endLease(ctx: Context, id: string): Promise<void> {
  const ask = () => ctx.api.call('endLease', { params: { id } });
  try {
    // one that is killed may still take a request after it has closed other connections; the next one is begun then
    await ask().catch(async (error) => {
      if (!(error instanceof BangerError) || error.code !== 'daemon_unreachable') throw error;
      await ask();
    });
  } catch (error) {
    // of an earlier daemon: this one has deleted its VM
    if (!(error instanceof BangerError) || error.code !== 'not_found') throw error;
  }
}
