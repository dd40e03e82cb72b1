"""What the tuners of the form dW_l = U_l M_l V_l^T share."""
