/** What a daemon that systemd started and that cannot start says to those who wait for it. */
import { createServer } from 'node:http';
import { toProblem } from '../api/problem.ts';
import { BangerError } from '../errors.ts';
import { sleep } from '../system/abort.ts';
import { listenOn } from '../system/activation.ts';

/** How long clients that wait for a daemon that cannot start are told why. */
const REFUSAL_MS = 1000;

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
