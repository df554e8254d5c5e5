/**
 * What nobody caught: a promise that was not waited for, an error of a stream nobody listens to. Each is a bug, and none
 * of them is a reason to drop what others wait for: VMs are processes of their own, and what was promised to clients is in
 * the database. One that comes again and again is: then nothing works any more, and the next client starts a new daemon.
 */
import type { Log } from '../control/host.ts';
import { messageOf } from '../errors.ts';

/** More than these within the time is a daemon that does nothing else. */
const MOST = 50;
const WITHIN_MS = 60_000;

/** @param giveUp called once when it goes on and on; ends the process */
export function catchStray(log: Pick<Log, 'error'>, giveUp: () => void, now = () => performance.now()): Disposable {
  const times: number[] = [];
  const caught = (kind: string) => (error: unknown) => {
    // the log may be what fails
    try {
      log.error({ error: messageOf(error), stack: error instanceof Error ? error.stack : undefined }, kind);
    } catch {}
    times.push(now());
    const first = times.length > MOST ? times.shift() : undefined;
    if (first !== undefined && now() - first < WITHIN_MS) giveUp();
  };
  const onRejection = caught('nobody waited for what failed; going on');
  const onException = caught('nobody listened for an error; going on');
  process.on('unhandledRejection', onRejection);
  process.on('uncaughtException', onException);
  return {
    [Symbol.dispose]() {
      process.off('unhandledRejection', onRejection);
      process.off('uncaughtException', onException);
    },
  };
}
