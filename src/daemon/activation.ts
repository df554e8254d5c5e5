/** What a daemon that systemd started and that cannot start says: to those who wait for it, and to systemd. */
import { createServer } from 'node:http';
import { toProblem } from '../api/problem.ts';
import { asBangerError, BangerError } from '../errors.ts';
import { sleep } from '../system/abort.ts';
import { listenOn } from '../system/activation.ts';

/** How long clients that wait for a daemon that cannot start are told why. */
const REFUSAL_MS = 1000;

/**
 * Whether systemd started this very process, by its socket or as a service: programs that a service starts have the variables
 * too, and those name another process (sd_listen_fds(3), systemd.exec(5)).
 */
export function isStartedBySystemd({ LISTEN_PID, SYSTEMD_EXEC_PID }: NodeJS.ProcessEnv, pid: number): boolean {
  return [LISTEN_PID, SYSTEMD_EXEC_PID].includes(String(pid));
}

/** The same failure, marked as one that the next try would meet as well: systemd leaves it at that. */
export function startRefused(error: unknown): BangerError {
  const failure = asBangerError(error);
  return failure.reworded(failure.message, { details: { startRefused: true } });
}

/**
 * Answers whoever waits for this daemon with the reason why it does not start. Without this systemd would start it again and
 * again for the same client, who would learn nothing.
 */
export async function refuseClients(descriptor: number, error: BangerError): Promise<void> {
  const problem = toProblem(
    new BangerError('daemon_unreachable', `The daemon cannot start: ${error.message}`, {
      cause: error,
      hint: error.hint ?? 'banger daemon run',
    }),
  );
  const server = createServer((_request, response) => {
    response.writeHead(problem.status, { 'Content-Type': 'application/problem+json', Connection: 'close' });
    response.end(JSON.stringify(problem));
  });
  await listenOn(server, descriptor);
  await sleep(REFUSAL_MS);
  server.close();
  server.closeAllConnections();
}
