/** A VMM that only says that its guest runs: `--api-sock PATH`, as long as it is left alone. */
import { createServer } from 'node:http';

const socket = process.argv[process.argv.indexOf('--api-sock') + 1];
createServer((_request, response) => {
  response.end(JSON.stringify({ id: 'idle', state: 'Running', vmm_version: '1', app_name: 'idle' }));
}).listen(socket);
