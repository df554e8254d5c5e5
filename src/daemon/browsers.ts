/**
 * The daemon's socket is its user's alone, but who forwards it to a port (`ssh -L`) has every page in the browser reach
 * it. No web page is a client of this API: what only browsers send is refused before any handler.
 */
import type { IncomingHttpHeaders } from 'node:http';
import { BangerError } from '../errors.ts';

/** What clients call a server they reach by a socket or a forwarded port; a page of a name of its own cannot. */
const OWN_NAMES = new Set(['', 'banger', 'bangerd', 'localhost', '127.0.0.1', '[::1]']);

/** Headers that scripts cannot leave out, and that no other client sends. */
const OF_BROWSERS = /^(origin|referer|sec-fetch-.*|sec-ch-.*)$/;

/** Why a request may be a web page's; undefined when it is none. */
export function refusalOfBrowser(headers: IncomingHttpHeaders): BangerError | undefined {
  const header = Object.keys(headers).find((name) => OF_BROWSERS.test(name));
  if (header !== undefined) {
    return refusal(`Requests of web pages are refused: this one has the header ${header}.`);
  }
  const name = (headers.host ?? '').toLowerCase().replace(/:\d*$/, '');
  if (!OWN_NAMES.has(name)) return refusal('The request is for another host than banger.');
  return undefined;
}

function refusal(message: string): BangerError {
  return new BangerError('invalid_input', message, {
    hint: 'Ask by the socket: curl --unix-socket SOCKET http://banger/v1/status',
  });
}
