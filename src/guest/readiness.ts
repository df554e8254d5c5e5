/** Waits until a booting guest lets us log in. */
import { BangerError } from '../errors.ts';
import { sleep, throwIfCancelled } from '../system/abort.ts';
import { connectSsh, type SshConnection, SshLoginError, type SshTarget } from './ssh.ts';

export interface ReadinessOptions {
  /** limit in `ms` for the first login */
  timeoutMs: number;
  signal?: AbortSignal;
  /**
   * Says why waiting is pointless (the VMM died, the initrd failed); undefined = go on.
   * @param answered whether the guest's network or its SSH server said something to the last try, be it no
   */
  givenUp?: (answered: boolean) => Promise<string | undefined>;
}

/** Port polls cost the guest one small packet. */
const POLL_MS = 40;
/** How often the console and the process are looked at while waiting. */
const GIVE_UP_CHECK_MS = 500;
/** One login of a slow emulated guest under load. */
const LOGIN_TIMEOUT_MS = 20_000;

/**
 * @throws BangerError `timeout` when the guest did not let us in within `timeoutMs`
 * @throws BangerError `guest_failed` when it refuses our key or can no longer come up
 */
export async function waitForSsh(target: SshTarget, options: ReadinessOptions): Promise<SshConnection> {
  const deadline = performance.now() + options.timeoutMs;
  let nextCheck = performance.now() + GIVE_UP_CHECK_MS;
  let lastReason = 'nothing answered';
  let answered = false;
  for (;;) {
    throwIfCancelled(options.signal);
    const left = deadline - performance.now();
    if (left <= 0) break;
    try {
      return await connectSsh(target, Math.min(left, LOGIN_TIMEOUT_MS), options.signal);
    } catch (error) {
      throwIfCancelled(options.signal);
      if (!(error instanceof SshLoginError)) throw error;
      lastReason = error.message;
      answered ||= error.answered;
      if (!error.temporary) {
        throw new BangerError('guest_failed', `${target.name} booted but refuses the login: ${error.message}.`, {
          cause: error,
          hint: `See what the guest says: banger logs ${target.name}`,
        });
      }
    }
    if (performance.now() >= nextCheck) {
      nextCheck = performance.now() + GIVE_UP_CHECK_MS;
      const reason = await options.givenUp?.(answered);
      answered = false;
      if (reason) {
        throw new BangerError('guest_failed', `${target.name} did not boot: ${reason}`, {
          hint: `See its console: banger logs ${target.name}`,
        });
      }
    }
    await sleep(POLL_MS, options.signal);
  }
  throw new BangerError(
    'timeout',
    `${target.name} did not answer SSH within ${Math.round(options.timeoutMs / 1000)} s (last: ${lastReason}).`,
    {
      hint: `See its console with: banger logs ${target.name}   or allow more time with: banger start ${target.name} --timeout 3m`,
    },
  );
}
