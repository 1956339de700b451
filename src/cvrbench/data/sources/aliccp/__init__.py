"""Ali-CCP (Ma et al., SIGIR 2018): the raw text, read without loss and in bounded memory."""
